"""Every verb of the command line on a real guest, as a person and as a program would use it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import vmctl
from vmctl.hypervisor import private

from .conftest import pool_volumes

pytestmark = pytest.mark.timeout(300)

SpecMaker = Callable[..., vmctl.VMSpec]
Run = Callable[..., subprocess.CompletedProcess[str]]
_VMCTL = [sys.executable, "-m", "vmctl.cli.main"]


@pytest.fixture
def run(private_host: private.PrivateHost) -> Run:
    """Run the command line on the tests' host; it is expected to end with ``code``."""

    def call(*words: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*_VMCTL, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env={**os.environ, "VMCTL_URI": f"private:{private_host.name}"},
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done

    return call


def document(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


@pytest.fixture
def spec_file(make_spec: SpecMaker, tmp_path: Path) -> tuple[str, str]:
    spec = make_spec(
        cloud_init={"users": [{"name": "ada", "sudo": "ALL=(ALL) NOPASSWD:ALL"}]},
        labels={"tier": "test"},
    )
    path = tmp_path / "spec.yaml"
    path.write_text(spec.to_yaml())
    return str(path), spec.name


_INFO = [
    "name", "uuid", "state", "state_reason", "addresses", "autostart", "saved", "phase",
    "labels", "tenant", "vcpus", "memory", "machine", "firmware", "accelerator", "started",
    "uptime", "created", "owner", "ssh_user", "host_key", "disks", "nics", "graphics", "snapshots",
    "current_snapshot", "snapshot_kind", "snapshot_why", "sources", "frozen",
]  # fmt: skip


@pytest.mark.usefixtures("nothing_left")
def test_every_verb_in_json(run: Run, host: vmctl.Host, spec_file: tuple[str, str]) -> None:
    file, name = spec_file
    assert run("validate", file).stderr == f"{file}: ok\n"
    assert document(run("render", file, "-f", "json"))["xml"].startswith("<domain")

    made = document(run("create", file, "-f", "json"))
    assert list(made) == _INFO
    assert (made["name"], made["state"], made["phase"]) == (name, "shut off", "provisioning")
    assert document(run("start", name, "--wait", "-f", "json"))[0]["state"] == "running"
    (listed,) = [
        entry for entry in document(run("list", "-l", "-f", "json")) if entry["name"] == name
    ]
    assert (listed["phase"], listed["labels"]) == ("ready", {"tier": "test"})
    info = document(run("info", name, "-f", "json"))
    assert (info["ssh_user"], info["state"], info["owner"]) == ("ada", "running", made["owner"])
    assert document(run("wait", name, "-f", "json"))["state"] == "running"

    done = run("exec", name, "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin="in", code=7)
    assert (done.stdout, done.stderr) == ("in", "err\n")
    assert run("ssh", name, "--", "id -un | tr a-z A-Z").stdout == "ADA\n"
    assert run("ssh", name, "--", "exit 9", code=9).stdout == ""
    assert run("exec", name, "--timeout", "1", "--", "sleep", "60", code=6).stdout == ""
    assert "micro: ready" in document(run("logs", name, "--format", "json"))["log"]
    assert run("logs", name, "-n", "1").stdout.count("\n") == 1

    taken = document(run("snapshot", "create", name, "one", "--description", "d", "-f", "json"))
    assert (taken["name"], taken["state"], taken["description"]) == ("one", "running", "d")
    run("exec", name, "--", "sudo", "rm", "/etc/passwd")
    assert run("exec", name, "--", "test", "-e", "/etc/passwd", code=1).stdout == ""
    back = document(run("snapshot", "revert", name, "one", "-f", "json"))
    assert back == {"name": name, "snapshot": "one", "state": "running", "kept": None}
    run("exec", name, "--", "test", "-e", "/etc/passwd")
    assert [s["name"] for s in document(run("snapshot", "list", name, "-f", "json"))] == ["one"]
    kept = run("snapshot", "revert", name, "one", "--keep", "two").stderr
    assert kept == f"{name}: is back at one, running; what there was is kept in two\n"
    assert document(run("snapshot", "delete", name, "one", "--children", "-f", "json")) == {
        "name": name,
        "snapshot": "one",
        "deleted": True,
        "snapshots": ["one", "two"],
    }
    assert document(run("snapshot", "list", name, "-f", "json")) == []

    assert document(run("pause", name, "-f", "json"))[0]["state"] == "paused"
    assert document(run("resume", name, "-f", "json"))[0]["state"] == "running"
    assert document(run("restart", name, "--wait", "-f", "json"))[0]["state"] == "running"
    assert document(run("stop", name, "-f", "json"))[0]["state"] == "shut off"
    assert run("exec", name, "--", "true", code=4).stderr.startswith("error: ")
    assert document(run("gc", "-f", "json")) == []
    assert {check["status"] for check in document(run("doctor", "-f", "json"))} <= {"ok", "warn"}
    deleted = document(run("delete", "--yes", name, "-f", "json"))
    assert deleted == [{"name": name, "uuid": made["uuid"], "deleted": True}]
    assert run("info", name, code=3).stderr.count("\n") == 2
    assert not [volume for volume in pool_volumes(host) if made["uuid"] in volume]


@pytest.mark.usefixtures("nothing_left")
def test_launch_for_people(run: Run, spec_file: tuple[str, str]) -> None:
    file, name = spec_file
    done = run("-v", "launch", file)
    heading, line = done.stdout.splitlines()
    assert heading.split() == ["NAME", "STATE", "PHASE", "ADDRESSES"]
    assert line.split()[:3] == [name, "running", "ready"]
    for phase in ("image", "define", "disks", "start", "running", "address", "ssh", "cloud-init"):
        assert f"{name}: {phase}: done after " in done.stderr
    assert run("launch", file, code=4).stderr.splitlines() == [
        f"error: there is a machine '{name}' already",
        f"hint: choose another name, or remove it first: `vmctl delete {name}`",
    ]
    assert run("delete", name, "-y").stderr == f"{name}: deleted\n"


@pytest.mark.usefixtures("nothing_left")
def test_what_can_not_be_reached_ends_with_255(run: Run, spec_file: tuple[str, str]) -> None:
    file, name = spec_file
    run("launch", file)
    run("exec", name, "--", "sudo", "sh", "-c", "rm /etc/ssh/ssh_host_ed25519_key*")
    run("exec", name, "--", "sudo", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
        "/etc/ssh/ssh_host_ed25519_key")  # fmt: skip
    # Each waits for a while in case that it was somebody else's address: so both at once.
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(run, verb, name, "--", "true", code=255) for verb in ("ssh", "exec")]
    for done in asked:
        changed = done.result().stderr.splitlines()
        assert changed[0] == f"error: whoever answers as '{name}' has not the host key of '{name}'"
        assert changed[-1].startswith("hint: ")
    run("delete", "--yes", name)


def test_a_shell_on_a_terminal(private_host: private.PrivateHost, shared_vm: vmctl.VM) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*_VMCTL, "ssh", shared_vm.name],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "VMCTL_URI": f"private:{private_host.name}", "TERM": "xterm"},
    ) as client:
        os.close(theirs)
        said = b""
        # What is typed before the terminal is the guest's gets lost, as with ssh.
        while b"$ " not in said:
            said += os.read(ours, 4096)
        os.write(ours, b"tty && echo is-a-$((40+2)); exit 5\n")
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            said += piece
        os.close(ours)
        assert client.wait(60) == 5
    assert b"/dev/pts/" in said
    assert b"is-a-42" in said
    assert b"Traceback" not in said


def test_a_closed_stdin_is_an_empty_one(run: Run, shared_vm: vmctl.VM) -> None:
    line = f"{sys.executable} -m vmctl.cli.main exec {shared_vm.name} -- cat <&-"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "VMCTL_URI": shared_vm._host.uri},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
