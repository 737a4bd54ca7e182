"""Files and trees, into a guest and out of it, by SSH and by the agent, and what may go wrong."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

import vmctl

pytestmark = pytest.mark.timeout(300)

_BOTH = pytest.mark.parametrize("via", ["ssh", "agent"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "a" / "locked").mkdir(parents=True)
    (top / "random").write_bytes(os.urandom(300_000))
    (top / "a" / "run me").write_text("#!/bin/sh\necho ran\n")
    (top / "a" / "run me").chmod(0o750)
    (top / "a" / "out").symlink_to("/etc/shadow")
    (top / "a" / "dangling").symlink_to("../nowhere")
    (top / "ünicode").touch()
    (top / "holes").touch()
    os.truncate(top / "holes", 1_000_000)
    with (top / "holes").open("r+b") as file:
        file.seek(500_000)
        file.write(b"x")
    (top / "a" / "locked").chmod(0o500)
    for path in (top / "random", top / "a", top):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return top


def facts(top: Path) -> dict[str, tuple[int, int, object]]:
    """Return mode, time and content of all that is in a tree."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        # A link's own time is not set.
        when = 0 if stat.S_ISLNK(status.st_mode) else int(status.st_mtime)
        found[str(path.relative_to(top))] = (status.st_mode, when, content)
    return found


def test_a_tree_there_and_back(shared_vm: vmctl.VM, tree: Path, tmp_path: Path) -> None:
    reports: list[vmctl.Progress] = []
    done = shared_vm.copy_to(tree, "", recursive=True, progress=reports.append)
    assert (done.files, done.bytes, done.via) == (4, 1_300_019, "ssh")
    assert reports[-1].state == "end"
    assert {report.phase for report in reports} == {"copy"}
    assert any(report.fraction == 1.0 for report in reports)
    seen = shared_vm.run(
        "cd tree && './a/run me' && readlink a/out && readlink a/dangling && "
        "stat -c '%a %Y' a random a/locked && du -k holes && find . -name '.*vmctl*'",
        check=True,
    ).stdout.splitlines()
    assert seen[:3] == ["ran", "/etc/shadow", "../nowhere"]
    assert seen[3:5] == ["755 1000000000", "644 1000000000"]
    assert seen[5].startswith("500 ")
    # A hole takes no room, here and there.
    assert int(seen[6].split()[0]) < 100
    assert len(seen) == 7

    back = shared_vm.copy_from("tree", tmp_path / "back", recursive=True)
    assert back == done
    assert facts(tmp_path / "back") == facts(tree)
    assert (tmp_path / "back" / "holes").stat().st_blocks * 512 < 100_000
    # Into a folder that is there it goes under its own name.
    into = tmp_path / "into"
    into.mkdir()
    shared_vm.copy_from("tree/a", into, recursive=True)
    assert facts(into / "a") == facts(tree / "a")
    shared_vm.run("chmod u+w tree/a/locked; rm -r tree", check=True)


@_BOTH
def test_one_file(
    shared_vm: vmctl.VM, tree: Path, tmp_path: Path, via: Literal["ssh", "agent"]
) -> None:
    shared_vm.run("mkdir -p /tmp/in && echo old >'/tmp/in/run me' && ln -sf 'run me' /tmp/in/link")
    done = shared_vm.copy_to(tree / "a" / "run me", "/tmp/in", via=via)
    assert (done.files, done.bytes, done.via) == (1, 19, via)
    listed = shared_vm.run(
        "sudo '/tmp/in/run me'; stat -c %a '/tmp/in/run me'; ls -A /tmp/in"
    ).stdout
    assert listed == "ran\n750\nlink\nrun me\n"
    shared_vm.copy_to(io.BytesIO(b"from a file\n"), "/tmp/in/given", via=via)
    shared_vm.copy_to(tree / "random", "/tmp/in/random", via=via)
    out = io.BytesIO()
    assert shared_vm.copy_from("/tmp/in/given", out, via=via).via == via
    assert out.getvalue() == b"from a file\n"
    shared_vm.copy_from("/tmp/in/random", tmp_path / "back", via=via)
    assert (tmp_path / "back").read_bytes() == (tree / "random").read_bytes()
    assert int((tmp_path / "back").stat().st_mtime) == 1_000_000_000
    assert shared_vm.copy_from("/proc/version", tmp_path, via=via).files == 1
    assert "Linux" in (tmp_path / "version").read_text()
    shared_vm.run("sudo rm -r /tmp/in", check=True)


@_BOTH
def test_what_a_killed_copy_left_goes_with_the_next(
    shared_vm: vmctl.VM, tree: Path, via: Literal["ssh", "agent"]
) -> None:
    """It may be somebody's at work as long as nobody knows better."""
    left, at_work, finished = (f".a*b.vmctl-0123456789a{digit}" for digit in "bcd")
    others = ".axb.vmctl-0123456789ab"
    long_ago = "touch -d @1000000000"
    shared_vm.run(
        "umask 077; mkdir -p /tmp/left/in && cd /tmp/left/in && "
        f"touch '{at_work}' && {long_ago} '{left}' '{others}' '{finished}' && "
        f"chmod 644 '{finished}'",
        check=True,
    )
    (tree / "in").mkdir()
    (tree / "in" / "a*b").write_text("whole\n")
    stays = {"a*b", at_work, finished, others}
    shared_vm.copy_to(tree / "in" / "a*b", "/tmp/left/in", via=via)
    assert set(shared_vm.run("ls -A /tmp/left/in").stdout.splitlines()) == stays
    if via == "ssh":
        shared_vm.run(f"cd /tmp/left/in && {long_ago} '{at_work}'", check=True)
        shared_vm.copy_to(tree / "in", "/tmp/left", recursive=True)
        now = set(shared_vm.run("ls -A /tmp/left/in").stdout.splitlines())
        assert now == stays - {at_work}
    shared_vm.run("sudo rm -r /tmp/left", check=True)


@pytest.fixture
def small_disk(shared_vm: vmctl.VM) -> Iterator[str]:
    """A file system of a MiB in the guest."""
    mount = "mkdir -p /mnt/small && mount -t tmpfs -o size=1m,mode=777 small /mnt/small"
    shared_vm.run(["sudo", "sh", "-c", mount], check=True)
    yield "/mnt/small"
    shared_vm.run("sudo umount /mnt/small", check=True)


@_BOTH
def test_a_full_disk(
    shared_vm: vmctl.VM, small_disk: str, tmp_path: Path, via: Literal["ssh", "agent"]
) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1_500_000))
    shared_vm.run(f"echo old >{small_disk}/large && sudo chmod 666 {small_disk}/large", check=True)
    with pytest.raises(vmctl.ResourceError, match="full") as caught:
        shared_vm.copy_to(large, f"{small_disk}/large", via=via)
    assert caught.value.hint
    # What was there is there still, and nothing else.
    assert shared_vm.run(f"cat {small_disk}/large; ls -A {small_disk}").stdout == "old\nlarge\n"


@_BOTH
def test_a_file_that_changes(
    shared_vm: vmctl.VM, tmp_path: Path, via: Literal["ssh", "agent"]
) -> None:
    growing = tmp_path / "growing"
    growing.write_bytes(os.urandom(200_000))

    def grow_here(report: vmctl.Progress) -> None:
        if report.state == "update":
            with growing.open("ab") as file:
                file.write(b"more")

    with pytest.raises(vmctl.ConflictError, match="changed while it was copied") as caught:
        shared_vm.copy_to(growing, "/tmp/growing", via=via, progress=grow_here)
    assert caught.value.hint
    assert shared_vm.run("ls -A /tmp | grep growing").stdout == ""

    shared_vm.run("head -c 200000 /dev/urandom >/tmp/growing", check=True)

    def grow_there(report: vmctl.Progress) -> None:
        if report.state == "update":
            shared_vm.run("echo more >>/tmp/growing", via="ssh")

    (tmp_path / "back").mkdir()
    with pytest.raises(vmctl.ConflictError, match="changed while it was copied"):
        shared_vm.copy_from("/tmp/growing", tmp_path / "back", via=via, progress=grow_there)
    assert list((tmp_path / "back").iterdir()) == []
    shared_vm.run("rm /tmp/growing", check=True)


@_BOTH
def test_what_is_refused(
    shared_vm: vmctl.VM, tree: Path, tmp_path: Path, via: Literal["ssh", "agent"]
) -> None:
    def refused(kind: type[vmctl.VmctlError], call: Callable[[], object]) -> None:
        with pytest.raises(kind) as caught:
            call()
        assert type(caught.value) is kind
        assert caught.value.hint

    vm = shared_vm
    missing, no_tree = vmctl.NotFoundError, vmctl.UsageError
    refused(missing, lambda: vm.copy_to(tmp_path / "nope", "/tmp/x", via=via))
    refused(missing, lambda: vm.copy_from("/nope", tmp_path, via=via))
    if via == "ssh":
        refused(missing, lambda: vm.copy_to(tree / "random", "/tmp/no/such/x", via=via))
        refused(missing, lambda: vm.copy_to(tree / "random", "/tmp/no/", via=via))
        refused(no_tree, lambda: vm.copy_to(tree, "/tmp/x", via=via))
        refused(vmctl.GuestError, lambda: vm.copy_to(tree / "random", "/etc/x", via=via))
        refused(vmctl.GuestError, lambda: vm.copy_from("/etc/shadow", tmp_path, via=via))
        os.mkfifo(tree / "pipe")
        refused(no_tree, lambda: vm.copy_to(tree, "/tmp/x", recursive=True, via=via))
    else:
        refused(vmctl.UnsupportedError, lambda: vm.copy_from("/etc", tmp_path, via=via))
        refused(no_tree, lambda: vm.copy_from("etc", tmp_path, via=via))
    refused(vmctl.UsageError, lambda: vm.copy_from("/dev/null", tmp_path, via=via))
    refused(vmctl.ConflictError, lambda: vm.copy_to(tree / "random", "/dev/null", via=via))
    refused(vmctl.ConflictError, lambda: vm.copy_from("/etc/motto", "/dev/null", via=via))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert vm.run("test -c /dev/null && ! test -e /tmp/x").exit_status == 0
