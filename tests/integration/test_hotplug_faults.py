"""Changes of devices that are cut off, that meet each other, and that the guest does not answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

import vmctl
from vmctl.changes import changing
from vmctl.devices.machine import recorded, spec_of
from vmctl.doctor.host import examine_host
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.uri import resolve
from vmctl.spec import DiskSpec

from .conftest import pool_volumes
from .test_hotplug import agreed
from .test_waiting import _libvirtd_of

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]

_ROOT = Path(__file__).resolve().parents[2]
MakeIdle = Callable[..., vmctl.VM]


@pytest.fixture
def idle(host: vmctl.Host) -> Iterator[MakeIdle]:
    """Return a maker of machines without a system in them, whose guest never answers."""
    made = []

    def make(*, start: bool = True, **fields: object) -> vmctl.VM:
        name = f"f{uuid.uuid4().hex[:8]}"
        disks = [{"size": "1MiB"}]
        given: dict[str, object] = {"name": name, "memory": "32MiB", "nics": [], "disks": disks}
        given |= fields
        spec = vmctl.VMSpec.model_validate(given)
        machine = host.launch(spec, wait=False) if start else host.create(spec)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        machine.delete()


def _own_volumes(vm: vmctl.VM) -> set[str]:
    record = vm._domain.record()
    assert record is not None
    return {volume.name for volume in record.volumes}


def _consistent(host: vmctl.Host, vm: vmctl.VM) -> None:
    """Check that the record, the definition and the pool say the same, and nothing is half made."""
    agreed(vm)
    there = {name for name in pool_volumes(host) if vm.uuid in name}
    assert there == _own_volumes(vm)


def _change_and_die(host: private.PrivateHost, at: int, *words: str) -> tuple[int, str]:
    program = [sys.executable, "-m", "tests.integration.killing_change", f"private:{host.name}"]
    done = subprocess.run(
        [*program, str(at), *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=_ROOT,
        timeout=120,
    )
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
def test_sigkill_in_the_middle_of_an_attach(
    private_host: private.PrivateHost, host: vmctl.Host, idle: MakeIdle, running: bool
) -> None:
    vm = idle(start=running)
    status, said = _change_and_die(private_host, 0, vm.name, "attach")
    assert status == 0
    points = int(said)
    tried = set()
    # Around what is made, and around what is attached; a running machine has few ports to spare.
    for at in range(points // 2, points, 3) if running else range(1, points + 1, 4):
        status, said = _change_and_die(private_host, at, vm.name, "attach")
        assert status == -signal.SIGKILL, said
        tried.add((at, said))
        assert all(entry.phase == "changing" for entry in host.gc(dry_run=True))
        host.gc()
        _consistent(host, vm)
        assert host.gc() == []
    assert len(tried) >= 3


def test_sigkill_in_the_middle_of_a_detach(
    private_host: private.PrivateHost, host: vmctl.Host, idle: MakeIdle
) -> None:
    vm = idle(start=False)
    vm.disks.attach(DiskSpec(size="1MiB"))
    status, said = _change_and_die(private_host, 0, vm.name, "detach", "vdb")
    assert status == 0
    for at in range(1, int(said) + 1, 5):
        if len(vm.disks.list()) == 1:
            vm.disks.attach(DiskSpec(size="1MiB"))
        status, said = _change_and_die(private_host, at, vm.name, "detach", "vdb")
        assert status == -signal.SIGKILL, said
        host.gc()
        _consistent(host, vm)


@pytest.mark.parametrize("verb", ["vcpus", "memory", "limit", "link"])
def test_sigkill_in_the_middle_of_a_change_of_a_value(
    private_host: private.PrivateHost, host: vmctl.Host, idle: MakeIdle, verb: str
) -> None:
    """Whatever the definition has then, the record says the same as soon as anybody looks."""
    vm = idle(start=False, max_vcpus=2, nics=[{"user": True}])
    mac = vm.nics.list()[0].mac
    words = (vm.name, verb, *([mac] if verb == "link" else []))
    status, said = _change_and_die(private_host, 0, *words)
    assert status == 0
    points = int(said)
    outcomes = set()
    for at in range(points // 2 - 1, points, 2):
        vm.set_vcpus(1)
        vm.set_memory("32MiB")
        vm.disks.set_limits("vda", None)
        vm.nics.set_link(mac, up=True)
        assert _change_and_die(private_host, at, *words)[0] == -signal.SIGKILL
        host.gc()
        _consistent(host, vm)
        record = vm._domain.record()
        assert record is not None
        spec = spec_of(record)
        (disk,), (nic,) = vm.disks.list(), vm.nics.list()
        limits = spec.disks[0].iotune
        assert disk.limits == ({} if limits is None else limits.given())
        assert nic.link == spec.nics[0].link
        outcomes.add((spec.vcpus, int(spec.memory), nic.link, bool(limits)))
    assert len(outcomes) == 2


def test_sigkill_between_the_running_machine_and_its_definition_is_said(
    private_host: private.PrivateHost, host: vmctl.Host, idle: MakeIdle
) -> None:
    vm = idle(max_vcpus=2)
    raw, at = vm._domain.raw(), 8
    while raw.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE) == 1:
        at += 2
        status, said = _change_and_die(private_host, at, vm.name, "vcpus")
        assert status == -signal.SIGKILL
    assert said == "after virDomainSetVcpusFlags"
    assert raw.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_CONFIG) == 1
    # Whoever looks is told: by the doctor, and by whatever compares the two.
    checks = {check.name: check for check in examine_host(resolve(host.uri), "default")}
    assert f"half-made by clients that were killed: {vm.name}" in checks["leftovers"].detail
    for settled in (False, True):
        (waiting,) = vm.compare({}).pending
        assert (waiting.path, waiting.expected, waiting.actual) == ("vcpus", "1", "2")
        assert len(host.gc()) == (0 if settled else 1)
    assert vm.apply({"vcpus": 2}).made == ("vcpus",)
    assert vm.compare({}).pending == ()
    _consistent(host, vm)


def test_what_a_killed_client_left_does_not_keep_the_next_one_from_work(
    private_host: private.PrivateHost, host: vmctl.Host, idle: MakeIdle
) -> None:
    vm = idle(start=False)
    points = int(_change_and_die(private_host, 0, vm.name, "attach")[1])
    assert _change_and_die(private_host, points // 2, vm.name, "attach")[0] == -signal.SIGKILL
    assert vm.disks.attach(DiskSpec(size="1MiB")).later
    _consistent(host, vm)


def test_two_attaches_at_once_both_succeed(
    private_host: private.PrivateHost, host: vmctl.Host, idle: MakeIdle
) -> None:
    vm = idle()
    made: list[str] = []

    def attach() -> None:
        with vmctl.connect(f"private:{private_host.name}") as other:
            made.append(other.get(vm.name).disks.attach(DiskSpec(size="1MiB")).target)

    threads = [threading.Thread(target=attach) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["vdb", "vdc", "vdd"]
    _consistent(host, vm)


def test_an_attach_that_fails_leaves_nothing(host: vmctl.Host, idle: MakeIdle) -> None:
    vm = idle()
    before = (vm.xml(), vm.xml(inactive=True), pool_volumes(host))
    # QEMU finds that there is no server only when it opens the disk.
    network = {"protocol": "nbd", "hosts": ["127.0.0.1:9"]}
    nowhere = DiskSpec.model_validate({"network": network})
    with pytest.raises(vmctl.VmctlError) as failed:
        vm.disks.attach(nowhere)
    assert failed.value.hint
    assert (vm.xml(), vm.xml(inactive=True), pool_volumes(host)) == before
    _consistent(host, vm)


def test_a_machine_without_a_free_port_says_so(idle: MakeIdle) -> None:
    vm = idle()
    # A q35 machine has some to spare by default.
    for _ in range(8):
        vm.disks.attach(DiskSpec(size="1MiB"))
    with pytest.raises(vmctl.UnsupportedError, match="no PCI Express port left") as full:
        vm.disks.attach(DiskSpec(size="1MiB"))
    assert "--next-start" in full.value.hint
    agreed(vm)
    assert vm.disks.attach(DiskSpec(size="1MiB"), next_start=True).later


def test_a_plan_says_which_devices_find_no_port_any_more(host: vmctl.Host, idle: MakeIdle) -> None:
    vm = idle()
    small = {"size": "1MiB"}
    wanted = spec_of(vm._domain.record()).replace(  # type: ignore[arg-type]  # it has one
        disks=[small] * 10, nics=[]
    )
    plan = vm.compare(wanted)
    when = [entry.when.value for entry in plan.differences]
    assert when == ["live"] * 8 + ["next start"]
    assert "no PCI Express port left" in plan.differences[-1].why
    done = vm.apply(wanted, plan=plan)
    assert (len(done.made), done.waiting) == (9, ("disks.vdj",))
    assert sum(disk.now for disk in vm.disks.list()) == 9
    assert vm.compare(wanted).differences == ()
    vm.stop(force=True, timeout=0)
    vm.start()
    _consistent(host, vm)


def test_a_guest_that_does_not_answer_keeps_its_disk(
    private_host: private.PrivateHost, host: vmctl.Host, idle: MakeIdle
) -> None:
    vm = idle()
    vm.disks.attach(DiskSpec(size="1MiB"))
    before = (vm.xml(), vm.xml(inactive=True), pool_volumes(host))
    for _ in range(2):
        with pytest.raises(vmctl.WaitTimeoutError, match="did not let go of vdb") as late:
            vm.disks.detach("vdb", timeout=1)
        assert late.value.phase == "detach"
        assert (vm.xml(), vm.xml(inactive=True), pool_volumes(host)) == before
        _consistent(host, vm)
    vm.pause()
    with pytest.raises(vmctl.UnsupportedError, match="is paused"):
        vm.disks.detach("vdb")
    vm.resume()

    # Its answer comes later: at its reset, the machine lets go of what it was asked for.
    vm._domain.raw().reset()

    def gone() -> bool | None:
        return None if any(d.target == "vdb" and d.now for d in vm.disks.list()) else True

    assert Signal().wait_for(gone, deadline=time.monotonic() + 30, recheck=0.2)
    late_disk = vm.disks.list()[1]
    assert (late_disk.target, late_disk.now, late_disk.later) == ("vdb", False, True)
    vm.disks.detach("vdb", delete=True)
    _consistent(host, vm)


def test_libvirtd_restarts_while_a_guest_is_waited_for(
    private_host: private.PrivateHost, host: vmctl.Host, idle: MakeIdle
) -> None:
    vm = idle()
    vm.disks.attach(DiskSpec(size="1MiB"))
    killed: list[int] = []

    def kill_it(progress: vmctl.Progress) -> None:
        if progress.phase == "detach" and progress.state == "update" and not killed:
            killed.append(_libvirtd_of(private_host))
            threading.Timer(0.5, os.kill, (killed[0], signal.SIGKILL)).start()

    with pytest.raises(vmctl.VmctlError):
        vm.disks.detach("vdb", timeout=4, progress=kill_it)
    assert killed
    assert [disk.target for disk in vm.disks.list()] == ["vda", "vdb"]
    host.gc()
    _consistent(host, vm)


def test_autostart_and_rename_wait_for_a_change_and_none_undoes_another(idle: MakeIdle) -> None:
    vm = idle(start=False)
    old, new = vm.name, f"{vm.name}x"
    with changing(vm._domain) as record:
        others = [
            threading.Thread(target=vm.set_autostart, args=(True,)),
            threading.Thread(target=vm.rename, args=(new,)),
        ]
        for other in others:
            other.start()
        for other in others:
            other.join(1)
            assert other.is_alive()
        raw = vm._domain.raw()
        assert (raw.name(), vm.autostart) == (old, False)
        changed = spec_of(record).model_copy(update={"labels": {"a": "b"}})
        vm._domain.update_record(spec=recorded(changed, record))
    for other in others:
        other.join(30)
    assert (vm._domain.raw().name(), vm.autostart) == (new, True)
    after = vm._domain.record()
    assert after is not None
    assert (after.spec["autostart"], after.spec["name"]) == (True, new)
    assert after.spec["labels"] == {"a": "b"}
