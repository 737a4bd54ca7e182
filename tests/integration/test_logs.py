"""The console log of a guest: followed while it is written, and kept when the guest is gone."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.metadata import Role

from .conftest import enter_host, pool_volumes
from .legacy_guest import BANNER, at_prompt, legacy_spec

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("nothing_left")]


class Follower:
    """Follows a log in a thread of its own."""

    def __init__(self, vm: vmctl.VM, **options: int) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._iterator = vm.console.follow(**options)
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for line in self._iterator:
            self._lines.put(line)
        self._lines.put(None)

    def see(self, text: str, *, seconds: float = 30) -> list[str]:
        """Return the lines up to the first one that has the text."""
        seen: list[str] = []
        while True:
            line = self._lines.get(timeout=seconds)
            assert line is not None, seen
            seen.append(line)
            if text in line:
                return seen

    def end(self) -> list[str]:
        """Return the lines up to its end."""
        seen = []
        while (line := self._lines.get(timeout=30)) is not None:
            seen.append(line)
        self._thread.join(30)
        return seen


def volume_of(vm: vmctl.VM) -> str:
    volume = vm._record().volume(Role.CONSOLE_LOG)
    assert volume is not None
    return volume.name


def rotate(private_host: private.PrivateHost, vm: vmctl.VM) -> None:
    """Cut the log of a machine that is off over, as virtlogd does with a long one."""
    name = f"/var/lib/libvirt/images/{volume_of(vm)}"
    script = f"mv {name} {name}.0 && : > {name}"
    subprocess.run([*enter_host(private_host), "sh", "-c", script], check=True)


def test_it_is_followed_across_restarts_and_to_its_end(
    private_host: private.PrivateHost, host: vmctl.Host, tmp_path: Path
) -> None:
    vm = host.launch(legacy_spec(tmp_path))
    all_of_it, new = Follower(vm), Follower(vm, lines=0)
    assert all_of_it.see(BANNER) == [BANNER]
    at_prompt(vm)
    vm.console.send("hello\r")
    assert all_of_it.see("hello")[-1] == "A:\\>hello"
    # A line without an end is one when the guest goes off.
    vm.console.send("the last word")
    vm.console.expect("word")
    vm._domain.destroy()
    assert all_of_it.see("last word") == ["A:\\>the last word"]
    assert vm.console_log().endswith("A:\\>the last word")

    vm.start()
    assert all_of_it.see(BANNER)[-1] == BANNER
    os.kill(_libvirtd_of(private_host), signal.SIGKILL)
    at_prompt_again(vm)
    vm.console.send("after the accident\r")
    all_of_it.see("after the accident")
    vm.delete()
    all_of_it.end()
    assert any("after the accident" in line for line in new.end())


def at_prompt_again(vm: vmctl.VM) -> None:
    """Bring it to its prompt, once libvirtd is back."""
    deadline = time.monotonic() + 30
    while True:
        try:
            at_prompt(vm)
        except vmctl.HostUnavailableError:
            assert time.monotonic() < deadline
        else:
            return


def _libvirtd_of(private_host: private.PrivateHost) -> int:
    first = private_host._record.init
    assert first is not None
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    return next(
        int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "libvirtd"
    )


def test_older_parts(private_host: private.PrivateHost, host: vmctl.Host, tmp_path: Path) -> None:
    vm = host.launch(legacy_spec(tmp_path))
    following = Follower(vm)
    following.see(BANNER)
    at_prompt(vm)
    vm.stop(force=True, timeout=0)
    rotate(private_host, vm)
    assert vm.console_log() == ""
    assert BANNER in vm.console_log(older=True)
    vm.start()
    following.see(BANNER)
    at_prompt(vm)
    assert vm.console_log().count(BANNER) == 1
    assert vm.console_log(older=True).count(BANNER) == 2
    done = subprocess.run(
        [sys.executable, "-m", "vmctl.cli.main", "logs", "--all", vm.name],
        env={**os.environ, "VMCTL_URI": f"private:{private_host.name}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(BANNER) == 2
    log = volume_of(vm)
    assert {name for name in pool_volumes(host) if log in name} == {log, f"{log}.0"}
    vm.delete()
    following.end()
    assert not [name for name in pool_volumes(host) if log in name]


def test_by_the_command_line(private_host: private.PrivateHost, old: vmctl.VM) -> None:
    command = [sys.executable, "-m", "vmctl.cli.main", "logs", "-f", "-n", "1", old.name]
    at_prompt(old)
    with subprocess.Popen(
        command,
        env={**os.environ, "VMCTL_URI": f"private:{private_host.name}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        assert client.stderr is not None
        client.stdout.readline()
        old.console.send("by the command line\r")
        assert "by the command line" in client.stdout.readline()
        client.send_signal(signal.SIGINT)
        assert client.wait(30) == 130
        assert client.stderr.read() == ""
