"""What the guest agent does without a network, and what happens when it hangs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

import vmctl
from vmctl.guest.identity import make_key
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal

pytestmark = pytest.mark.timeout(300)

_VMCTL = [sys.executable, "-m", "vmctl.cli.main"]


@pytest.fixture
def vm(shared_vm: vmctl.VM) -> Iterator[vmctl.VM]:
    """Give the guest, and leave it with an agent that works and nothing frozen."""
    yield shared_vm
    shared_vm.run("sudo kill -CONT $(pidof qemu-ga)", via="ssh")
    shared_vm.agent.thaw()


def test_what_the_guest_says_of_itself(vm: vmctl.VM) -> None:
    info = vm.agent.info()
    assert vm.agent.ping() < 30
    assert (info.hostname, info.os_id, info.frozen) == ("shared-guest", "debian", False)
    assert info.kernel == vm.run("uname -r", via="ssh").stdout.strip()
    (root,) = info.filesystems
    assert (root.mountpoint, root.type) == ("/", "ext4")
    assert root.size is not None
    assert root.used is not None
    assert 0 < root.used < root.size
    assert (vm.agent.filesystems(), vm.agent.users()) == (info.filesystems, ())


def test_files(vm: vmctl.VM) -> None:
    content = os.urandom(100_000)
    vm.agent.write_file("/root/content", content)
    assert vm.agent.read_file("/root/content") == content
    assert vm.run("wc -c </root/content", user="root").stdout.strip() == "100000"
    with pytest.raises(vmctl.GuestError) as caught:
        vm.agent.read_file("/root/nothing")
    assert caught.value.hint
    assert vm.agent.run(["rm", "/root/content"], check=True).via == "agent"


def _written_late(vm: vmctl.VM) -> str:
    return vm.run("cat /dev/shm/late", via="ssh", timeout=60).stdout


def test_frozen_file_systems(vm: vmctl.VM) -> None:
    write = "rm -f /dev/shm/late; (echo x >/var/tmp/late; echo over >/dev/shm/late)"
    with vm.agent.frozen() as count:
        assert count == 1
        assert vm.agent.is_frozen()
        assert vm.agent.info().frozen
        assert vm.agent.freeze() == 0
        # Somebody in the guest who writes waits until it is over.
        vm.run(f"({write}) >/dev/null 2>&1 </dev/null &", via="ssh", check=True)
        assert _written_late(vm) == ""
        with pytest.raises(vmctl.WrongStateError, match="frozen") as caught, vm.agent.frozen():
            pass
        assert caught.value.state == "frozen"
        calls: list[Callable[[], object]] = [
            lambda: vm.agent.set_password("admin", "x"),
            vm.agent.set_time,
            lambda: vm.agent.add_authorized_keys("admin", [make_key().public]),
        ]
        for call in calls:
            with pytest.raises(vmctl.WrongStateError) as refused:
                call()
            assert "agent thaw" in refused.value.hint
        assert vm.agent.is_frozen()
    assert not vm.agent.is_frozen()
    deadline = time.monotonic() + 60
    assert Signal().wait_for(lambda: _written_late(vm) or None, deadline=deadline) == "over\n"
    assert vm.agent.thaw() == 0


def test_thawed_whatever_happens(vm: vmctl.VM) -> None:
    for kind in (ValueError, KeyboardInterrupt):
        with pytest.raises(kind), vm.agent.frozen():
            raise kind
        assert not vm.agent.is_frozen()


def test_a_client_that_is_killed_leaves_them_frozen(
    private_host: private.PrivateHost, vm: vmctl.VM
) -> None:
    program = (
        "import os, signal, sys, vmctl\n"
        "host = vmctl.connect(sys.argv[1])\n"
        "with host.get(sys.argv[2]).agent.frozen():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, f"private:{private_host.name}", vm.name]
    assert subprocess.run(command, check=False).returncode == -9
    assert vm.agent.is_frozen()
    # Whoever comes next is told so, and what to do.
    assert vm.info().frozen
    with pytest.raises(vmctl.WrongStateError, match="file systems of .* are frozen") as caught:
        vm.run("true", via="agent")
    assert caught.value.state == "frozen"
    assert f"vmctl agent thaw {vm.name}" in caught.value.hint
    subprocess.run(
        [*_VMCTL, "agent", "thaw", vm.name],
        check=True,
        env={**os.environ, "VMCTL_URI": f"private:{private_host.name}"},
    )
    assert not vm.agent.is_frozen()
    assert vm.info().frozen is False


def test_an_agent_that_hangs(vm: vmctl.VM) -> None:
    vm.run("sudo kill -STOP $(pidof qemu-ga)", via="ssh", check=True)
    calls: list[Callable[[], object]] = [
        vm.agent.ping,
        vm.agent.info,
        vm.agent.time,
        vm.agent.freeze,
        lambda: vm.agent.set_password("admin", "x"),
        lambda: vm.run("true", via="agent", timeout=5),
    ]
    for call in calls:
        began = time.monotonic()
        with pytest.raises(vmctl.GuestUnreachableError) as caught:
            call()
        assert caught.value.hint
        assert time.monotonic() - began < 20
    # SSH doesn't need it.
    assert vm.run("true").via == "ssh"
    vm.run("sudo kill -CONT $(pidof qemu-ga)", via="ssh", check=True)
    assert vm.agent.ping() < 30
    assert not vm.agent.is_frozen()
    # Killed, it comes again, as its service does elsewhere.
    vm.run("sudo kill -KILL $(pidof qemu-ga)", via="ssh", check=True)
    deadline = time.monotonic() + 60
    assert Signal().wait_for(lambda: _answer(vm), deadline=deadline) is not None


def _answer(vm: vmctl.VM) -> float | None:
    try:
        return vm.agent.ping()
    except vmctl.GuestUnreachableError:
        return None


def _shadow(vm: vmctl.VM) -> str:
    line = vm.run("sudo grep ^admin: /etc/shadow", via="ssh", check=True).stdout
    return line.split(":")[1]


def test_passwords(private_host: private.PrivateHost, vm: vmctl.VM) -> None:
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    done = subprocess.run(
        [*_VMCTL, "agent", "set-password", vm.name, "admin"],
        input="Grüße s3cret\n",
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "VMCTL_URI": f"private:{private_host.name}"},
    )
    assert "s3cret" not in done.stdout + done.stderr + vm.xml()
    hashed = _shadow(vm)
    assert crypt("Grüße s3cret".encode(), hashed.encode()) == hashed.encode()
    given = "$6$saltsalt$" + "a" * 86
    vm.agent.set_password("admin", given, crypted=True)
    assert _shadow(vm) == given
    with pytest.raises(vmctl.NotFoundError, match="nobody-here"):
        vm.agent.set_password("nobody-here", "x")
    for user, password in (("a:b", "x"), ("admin", ""), ("admin", "a\nroot:b")):
        with pytest.raises(vmctl.UsageError):
            vm.agent.set_password(user, password)
    assert _shadow(vm) == given


def test_keys(vm: vmctl.VM) -> None:
    before = vm.agent.authorized_keys("admin")
    one, two = (f"{make_key().public} {name}" for name in ("one", "two"))
    vm.agent.add_authorized_keys("admin", [one, two])
    vm.agent.add_authorized_keys("admin", [one])
    assert set(vm.agent.authorized_keys("admin")) == {*before, one, two}
    in_guest = vm.run("grep . ~/.ssh/authorized_keys", via="ssh").stdout.splitlines()
    assert sorted(in_guest) == sorted([*before, one, two])
    vm.agent.remove_authorized_keys("admin", [one, two])
    vm.agent.remove_authorized_keys("admin", [two])
    assert vm.agent.authorized_keys("admin") == before
    assert vm.agent.authorized_keys("nobody") == ()
    with pytest.raises(vmctl.NotFoundError):
        vm.agent.authorized_keys("nobody-here")
    with pytest.raises(vmctl.NotFoundError):
        vm.agent.add_authorized_keys("nobody-here", [one])
    for nonsense in ("", "# ssh-ed25519 AAAA", "ssh-ed25519", f"{one}\n{two}"):
        with pytest.raises(vmctl.UsageError):
            vm.agent.add_authorized_keys("admin", [nonsense])


def test_time(vm: vmctl.VM) -> None:
    now = datetime.now(UTC)
    assert abs(vm.agent.time() - now) < timedelta(minutes=5)
    vm.agent.set_time(datetime(2040, 1, 2, tzinfo=UTC))
    assert vm.run("date -u +%Y", via="ssh").stdout == "2040\n"
    vm.agent.set_time()
    assert abs(vm.agent.time() - datetime.now(UTC)) < timedelta(minutes=1)
    with pytest.raises(vmctl.UsageError):
        vm.agent.set_time(datetime(2040, 1, 2))


def test_a_machine_that_does_not_run(vm: vmctl.VM) -> None:
    vm.pause()
    with pytest.raises(vmctl.WrongStateError) as caught:
        vm.agent.ping()
    assert caught.value.state == "paused"
    vm.resume()
    assert vm.agent.ping() < 30
