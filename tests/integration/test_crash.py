"""A guest that crashes, hangs, and has its memory dumped: seen by libvirt, and from the inside."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
import pytest

import vmctl
from vmctl import dumping
from vmctl.errors import ConflictError, ResourceError, UsageError, WrongStateError
from vmctl.hypervisor import private

from .conftest import (
    boots,
    in_a_moment,
    libvirtd_pid,
    libvirts_state,
    pool_volumes,
    until_agent,
    until_booted,
)

pytestmark = pytest.mark.timeout(600)

RUNNING, PAUSED, SHUT_OFF, CRASHED = 1, 3, 5, 6
_PATIENCE = 120.0


@pytest.fixture(scope="module")
def vm(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    """A guest that is kept as it crashed; its agent, which is root, is the way in."""
    spec = vmctl.VMSpec.model_validate(
        {
            "name": f"c{uuid.uuid4().hex[:8]}",
            "image": micro_image,
            "memory": "160MiB",
            "nics": [],
            "panic": "isa",
            "on_crash": "preserve",
            "watchdog": {"model": "i6300esb", "action": "poweroff"},
            "cloud_init": None,
        }
    )
    machine = host.launch(spec)
    try:
        until_agent(machine)
        yield machine
    finally:
        machine.delete()


def until_state(host: vmctl.Host, vm: vmctl.VM, *wanted: int) -> int:
    with host._connection.events.listening(vm.uuid) as heard:
        state = heard.wait_for(
            lambda: found if (found := libvirts_state(host, vm)) in wanted else None,
            deadline=time.monotonic() + _PATIENCE,
        )
    assert state is not None, vm.info()
    return state


def crash(vm: vmctl.VM) -> None:
    """Let the guest's kernel panic, a moment after the agent has answered."""
    in_a_moment(vm, "echo c >/proc/sysrq-trigger")


def put_marker(vm: vmctl.VM) -> bytes:
    """Put a text into the guest's memory that stands nowhere else."""
    half = uuid.uuid4().hex
    # Not in one piece in what the agent is told.
    vm.run(f"printf '%s%s' vmctl-{half} {half[::-1]} > /dev/shm/marker", check=True)
    return f"vmctl-{half}{half[::-1]}".encode()


def assert_core_with(path: Path, marker: bytes) -> None:
    content = path.read_bytes()
    # An ELF file (e_ident) that is a core (ET_CORE, 4).
    assert content[:4] == b"\x7fELF"
    assert content[16:18] == b"\x04\x00"
    assert marker in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def dumps_in_pool(host: vmctl.Host) -> set[str]:
    return {name for name in pool_volumes(host) if "dump" in name}


def test_a_dump_has_what_is_in_the_guests_memory(
    host: vmctl.Host, vm: vmctl.VM, tmp_path: Path
) -> None:
    marker, boot = put_marker(vm), until_agent(vm)
    told: list[str] = []
    core = tmp_path / "core"
    size = vm.dump(core, progress=lambda entry: told.append(f"{entry.phase} {entry.state}"))
    assert size == core.stat().st_size >= 160 << 20
    assert_core_with(core, marker)
    assert {"dump begin", "dump end", "download begin", "download end"} <= set(told)
    assert libvirts_state(host, vm) == RUNNING
    assert dumps_in_pool(host) == set()
    assert until_agent(vm) == boot

    with pytest.raises(ConflictError, match="there is a file"):
        vm.dump(core)
    with pytest.raises(UsageError, match="there is no dump as 'floppy'"):
        vm.dump(tmp_path / "other", format="floppy")

    small = tmp_path / "small"
    words = ["dump", "--as", "kdump-zlib", vm.name, str(small), "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "vmctl.cli.main", "--uri", host.uri, *words],
        check=True,
        capture_output=True,
        text=True,
    )
    made = json.loads(done.stdout)
    assert (made["name"], made["format"]) == (vm.name, "kdump-zlib")
    # The flattened form, which can be written to a pipe; makedumpfile -R and crash read it.
    assert small.read_bytes()[:12] == b"makedumpfile"
    assert made["size"] == small.stat().st_size < size
    assert dumps_in_pool(host) == set()


def test_a_pool_without_room_is_refused_and_one_that_fills_up_is_left_clean(
    host: vmctl.Host,
    vm: vmctl.VM,
    small_pool: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = tmp_path / "core"
    with pytest.raises(ResourceError, match="the pool 'small' has no room .* are free"):
        vm.dump(core, pool=small_pool)
    # Somebody else fills it after it was looked at.
    monkeypatch.setattr(dumping, "_refuse_pool", lambda *_arguments: None)
    with pytest.raises(ResourceError, match="no room for the memory"):
        vm.dump(core, pool=small_pool)
    assert not core.exists()
    assert list(tmp_path.iterdir()) == []
    until_state(host, vm, RUNNING)
    assert host.gc(dry_run=True) == []
    until_agent(vm)


@contextmanager
def when_it_stands_still(
    host: vmctl.Host, vm: vmctl.VM, act: Callable[[], object]
) -> Iterator[None]:
    """Do something the moment that the guest stands still, which it does for milliseconds."""
    done = threading.Event()

    def heard(_event: vmctl.Event) -> None:
        act()
        done.set()

    listener = host.on_event(heard, vm.name, kinds=["suspended"])
    try:
        yield
        assert done.wait(_PATIENCE)
    finally:
        listener.close()


def test_a_client_that_is_killed_in_the_middle_of_a_dump(
    host: vmctl.Host, vm: vmctl.VM, tmp_path: Path
) -> None:
    boot = until_agent(vm)
    words = ["dump", vm.name, str(tmp_path / "core")]
    client = subprocess.Popen(
        [sys.executable, "-m", "vmctl.cli.main", "--uri", host.uri, *words], start_new_session=True
    )
    with when_it_stands_still(host, vm, client.kill):
        assert client.wait(_PATIENCE) == -signal.SIGKILL
    until_state(host, vm, RUNNING)
    assert list(tmp_path.iterdir()) == []
    (found,) = host.gc(dry_run=True)
    assert found.phase == "dumping"
    assert found.name.endswith(".dump")
    assert len(host.gc()) == 1
    assert dumps_in_pool(host) == set()
    assert until_agent(vm) == boot


def test_libvirtd_that_dies_in_the_middle_of_a_dump(
    host: vmctl.Host, vm: vmctl.VM, private_host: private.PrivateHost, tmp_path: Path
) -> None:
    boot = until_agent(vm)
    failures: list[vmctl.VmctlError] = []

    def dump() -> None:
        try:
            vm.dump(tmp_path / "core")
        except vmctl.VmctlError as error:
            failures.append(error)

    daemon = libvirtd_pid(private_host)
    working = threading.Thread(target=dump)
    with when_it_stands_still(host, vm, lambda: os.kill(daemon, signal.SIGKILL)):
        working.start()
    working.join(_PATIENCE)
    assert isinstance(failures[0], vmctl.HostUnavailableError)
    assert list(tmp_path.iterdir()) == []
    until_state(host, vm, RUNNING)
    assert dumps_in_pool(host) == set()
    assert host.gc(dry_run=True) == []
    assert until_agent(vm) == boot


def test_a_crash_that_is_preserved(host: vmctl.Host, vm: vmctl.VM, tmp_path: Path) -> None:
    marker, boot = put_marker(vm), until_agent(vm)
    crash(vm)
    until_state(host, vm, CRASHED)
    info = vm.info()
    assert (info.state, info.state_reason) == ("crashed", "panicked")
    verbs: tuple[Callable[[], object], ...] = (
        vm.start, vm.stop, vm.pause, vm.resume, vm.save, vm.nmi, vm.wait,
    )  # fmt: skip
    for verb in verbs:
        with pytest.raises(WrongStateError, match="is crashed") as caught:
            verb()
        assert caught.value.state == "crashed"
    assert libvirts_state(host, vm) == CRASHED

    core = tmp_path / "core"
    vm.dump(core)
    assert_core_with(core, marker)
    assert libvirts_state(host, vm) == CRASHED

    count = boots(vm)
    vm.reset()
    assert libvirts_state(host, vm) == RUNNING
    until_booted(host, vm, count + 1)
    assert vm.stop(timeout=0, force=True).ended_by == "force"
    assert vm.start().how == "booted"
    assert until_agent(vm) != boot


def set_on_crash(host: vmctl.Host, vm: vmctl.VM, action: int) -> None:
    host._connection.raw.lookupByUUIDString(vm.uuid).setLifecycleAction(
        libvirt.VIR_DOMAIN_LIFECYCLE_CRASH, action, libvirt.VIR_DOMAIN_AFFECT_LIVE
    )


def test_a_crash_that_restarts(host: vmctl.Host, vm: vmctl.VM) -> None:
    set_on_crash(host, vm, libvirt.VIR_DOMAIN_LIFECYCLE_ACTION_RESTART)
    count = boots(vm)
    crash(vm)
    until_booted(host, vm, count + 1)
    assert libvirts_state(host, vm) == RUNNING
    vm.restart(timeout=0, force=True)
    until_agent(vm)


def test_a_crash_that_ends_the_machine(host: vmctl.Host, vm: vmctl.VM) -> None:
    set_on_crash(host, vm, libvirt.VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY)
    crash(vm)
    until_state(host, vm, SHUT_OFF)
    info = vm.info()
    assert (info.state, info.state_reason) == ("shut off", "crashed")
    vm.start()
    until_agent(vm)


def test_a_watchdog_that_is_not_fed_acts(host: vmctl.Host, vm: vmctl.VM) -> None:
    # Fed once, and after two seconds no more.
    vm.run("watchdog -T 2 -t 600 /dev/watchdog", check=True)
    until_state(host, vm, SHUT_OFF)
    # QEMU ends without a word, as if it had crashed itself.
    assert vm.info().state_reason == "crashed"
