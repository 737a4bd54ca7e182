"""The serial console of a guest that has nothing else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal

from .legacy_guest import BANNER, PROMPT, at_prompt, legacy_spec

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("nothing_left")]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_what_is_sent_is_answered(old: vmctl.VM) -> None:
    vm = old
    before = threads()
    with vm.console.open() as console:
        console.send("\r")
        console.expect(PROMPT)
        console.send("dir c:")
        found = console.expect(["nothing", re.compile(r"d(i)r (.):")])
        assert (found.index, found.text, found.groups) == (1, "dir c:", ("i", "c"))
        console.send(b"\r")
        assert console.expect(PROMPT).before.strip() == ""
        assert console.read() == ""
    assert threads() <= before
    assert BANNER in vm.console_log()
    assert "dir c:" in vm.console_log()


def test_a_closed_console_leaves_no_connection(old: vmctl.VM) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with old.console.open() as console:
            console.send("x")
    # libvirt's event loop lets go of it when it next comes by.
    gone = Signal().wait_for(
        lambda: len(list(Path("/proc/self/fd").iterdir())) <= before or None,
        deadline=time.monotonic() + 10,
        recheck=0.1,
    )
    assert gone


def test_send_and_expect_open_it_and_keep_it(host: vmctl.Host, old: vmctl.VM) -> None:
    at_prompt(old)
    old.console.send("one")
    # The same console, by another handle.
    assert host.get(old.name).console.expect("one").before == ""
    with old.console.open() as console, pytest.raises(vmctl.ConflictError) as caught:
        old.console.send("two")
    assert "--force" in caught.value.hint
    with pytest.raises(vmctl.ConflictError, match="was closed"):
        console.expect("two")


def test_what_never_comes(old: vmctl.VM) -> None:
    at_prompt(old)
    old.console.send("hello")
    with pytest.raises(vmctl.WaitTimeoutError) as caught:
        old.console.expect(["never", re.compile("ne.er")], timeout=1)
    error = caught.value
    assert (error.phase, error.exit_code) == ("console", 6)
    assert "'never' or 'ne.er'" in error.brief
    assert error.details == "the last that it wrote:\nhello"
    # What was looked at in vain is still there.
    assert old.console.expect("hello").text == "hello"


def test_calls_that_make_no_sense(old: vmctl.VM) -> None:
    for nothing in ("", [], [b"bytes"], re.compile(b"x")):
        with pytest.raises(vmctl.UsageError):
            old.console.expect(nothing)  # type: ignore[arg-type]
    with pytest.raises(vmctl.UsageError):
        old.console.open(encoding="nonsense")
    with old.console.open(encoding="cp437") as console, pytest.raises(vmctl.UsageError):
        console.send("\u20ac")
    with pytest.raises(vmctl.NotFoundError) as caught:
        old.console.open(device="serial7")
    assert "serial0" in caught.value.hint
    assert old.console.devices() == ("serial0",)


def test_another_client_that_holds_it(private_host: private.PrivateHost, old: vmctl.VM) -> None:
    with vmctl.connect(f"private:{private_host.name}") as other:
        theirs = other.get(old.name).console.open()
        with pytest.raises(vmctl.ConflictError) as caught:
            old.console.open()
        assert not isinstance(caught.value, vmctl.WrongStateError)
        with old.console.open(force=True) as console:
            with pytest.raises(vmctl.ConflictError, match="took the console"):
                theirs.expect("anything", timeout=30)
            console.send("mine")
            console.expect("mine")
        theirs.close()


_HOLDING = """\
import signal, sys, vmctl
host = vmctl.connect(sys.argv[1])
console = host.get(sys.argv[2]).console.open()
print("held", flush=True)
signal.pause()
"""


def test_a_client_that_is_killed_while_it_holds_it(
    private_host: private.PrivateHost, old: vmctl.VM
) -> None:
    command = [sys.executable, "-c", _HOLDING, f"private:{private_host.name}", old.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "held\n"
        with pytest.raises(vmctl.ConflictError):
            old.console.open()
        client.send_signal(signal.SIGKILL)
    # libvirtd hears of it a moment later.
    assert Signal().wait_for(lambda: _opens(old), deadline=time.monotonic() + 10, recheck=0.1)


def _opens(vm: vmctl.VM) -> bool | None:
    try:
        vm.console.open().close()
    except vmctl.ConflictError:
        return None
    return True


def test_a_guest_that_is_ended_while_something_is_expected(old: vmctl.VM) -> None:
    at_prompt(old)
    ending = threading.Timer(0.5, old._domain.destroy)
    ending.start()
    with pytest.raises(vmctl.WrongStateError) as caught:
        old.console.expect("never", timeout=60)
    ending.join()
    assert caught.value.state == "shut off"
    with pytest.raises(vmctl.WrongStateError) as caught:
        old.console.open()
    assert "vmctl start" in caught.value.hint
    # The next one is the new start's.
    old.start()
    at_prompt(old)


def test_a_guest_that_reads_nothing(old: vmctl.VM) -> None:
    """What it doesn't read waits; neither other calls nor closing the console wait with it."""
    old.pause()
    before = threads()
    with old.console.open() as console:
        with pytest.raises(vmctl.WaitTimeoutError) as caught:
            console.send("x" * 300_000, timeout=2)
        assert caught.value.phase == "console"
        begin = time.monotonic()
        assert old.state == "paused"
        assert time.monotonic() - begin < 1
    assert time.monotonic() - begin < 10
    assert threads() <= before
    old.stop(force=True, timeout=0)


def test_libvirtd_is_killed_while_something_is_expected(
    private_host: private.PrivateHost, host: vmctl.Host, old: vmctl.VM
) -> None:
    at_prompt(old)
    killing = threading.Timer(0.5, os.kill, (_libvirtd_of(private_host), signal.SIGKILL))
    killing.start()
    begin = time.monotonic()
    with pytest.raises(vmctl.HostUnavailableError) as caught:
        old.console.expect("never", timeout=60)
    assert time.monotonic() - begin < 10
    assert "logs" in caught.value.hint
    killing.join()
    alive = Signal().wait_for(lambda: _is_back(old), deadline=time.monotonic() + 30)
    assert alive
    at_prompt(old)


def _is_back(vm: vmctl.VM) -> bool | None:
    try:
        return vm.state == "running" or None
    except vmctl.HostUnavailableError:
        return None


def _libvirtd_of(private_host: private.PrivateHost) -> int:
    """Return the pid of the host's libvirtd, as this machine sees it."""
    first = private_host._record.init
    assert first is not None
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    return next(
        int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "libvirtd"
    )


def test_a_flood_does_not_grow(old: vmctl.VM) -> None:
    """The end of it is kept; what is read does not grow with what is written."""
    with old.console.open() as console:
        console.send(b"\r\x06")
        console.expect("xxxx")
        with pytest.raises(vmctl.WaitTimeoutError):
            console.expect("never", timeout=3)
        assert len(console._written.text) <= 256 * 1024
        assert len(console._stream._received) <= 1 << 20
    old.stop(force=True, timeout=0)


def test_a_machine_without_a_console(host: vmctl.Host, tmp_path: Path) -> None:
    vm = host.create(legacy_spec(tmp_path, serials=[], console=None))
    with pytest.raises(vmctl.WrongStateError):
        vm.console.open()
    vm.start()
    with pytest.raises(vmctl.NotFoundError) as caught:
        vm.console.open()
    assert "serials" in caught.value.hint
    vm.delete()


def test_a_console_of_its_own(host: vmctl.Host, make_spec: Callable[..., vmctl.VMSpec]) -> None:
    """A virtio console is the guest's console, and the serial port another one beside it."""
    vm = host.launch(make_spec(console="virtio"))
    assert vm.console.devices() == ("console1", "serial0")
    with vm.console.open() as console:
        vm.run("sudo -n sh -c 'echo by virtio > /dev/hvc0'", check=True)
        console.expect("by virtio")
        console.send("an answer\n")
        said = vm.run("sudo -n timeout 20 head -n 1 /dev/hvc0", check=True).stdout
        assert said.strip() == "an answer"
        with vm.console.open(device="serial0") as other:
            vm.run("sudo -n sh -c 'echo by serial > /dev/ttyS0'", check=True)
            other.expect("by serial")
            assert "by serial" not in console.read()
    vm.delete()
