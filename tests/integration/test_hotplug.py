"""Devices that come, go and change: seen by libvirt, by vmctl's record, and inside the guest."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lxml import etree

import vmctl
from vmctl.devices import memory
from vmctl.devices.machine import spec_of
from vmctl.hypervisor.events import Signal
from vmctl.render.iso import build_iso
from vmctl.spec import BandwidthSpec, DiskSpec, IoTuneSpec, NicSpec

from .conftest import pool_volumes

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]

MIB = 1 << 20


@pytest.fixture(scope="module")
def vm(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    """One running guest that each test leaves as it was."""
    spec = vmctl.VMSpec.model_validate(
        {
            "name": f"h{uuid.uuid4().hex[:8]}",
            "image": micro_image,
            "vcpus": 1,
            "max_vcpus": 3,
            "memory": "256MiB",
            "max_memory": "1GiB",
            "nics": [{"user": True}],
            "cdroms": [{"bus": "scsi"}],
        }
    )
    made = host.launch(spec)
    try:
        yield made
    finally:
        made.delete()


@pytest.fixture
def idle(host: vmctl.Host) -> Iterator[Callable[..., vmctl.VM]]:
    """Return a maker of machines without a system in them, whose guest never answers."""
    made = []

    def make(*, start: bool = True, **fields: object) -> vmctl.VM:
        given = {"name": f"i{uuid.uuid4().hex[:8]}", "memory": "32MiB", "nics": []} | fields
        spec = vmctl.VMSpec.model_validate(given)
        machine = host.launch(spec, wait=False) if start else host.create(spec)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        machine.delete()


def soon(vm: vmctl.VM, command: str, expected: str) -> None:
    """Wait until a command in the guest says what is expected: a driver needs its moment."""
    said = ""

    def says() -> bool | None:
        nonlocal said
        said = vm.run(command).stdout.strip()
        return True if said == expected else None

    assert Signal().wait_for(says, deadline=time.monotonic() + 60, recheck=0.3), said


def agreed(vm: vmctl.VM) -> None:
    """Check that the record, the definition and the running machine have the same devices."""
    record = vm._domain.record()
    assert record is not None
    assert record.pending is None
    spec = spec_of(record)
    targets = {disk.target for disk in spec.disks}
    macs = {nic.mac for nic in spec.nics}
    documents = [vm.xml(inactive=True), *([vm.xml()] if vm.state == "running" else [])]
    for text in documents:
        root = etree.fromstring(text)
        assert {
            node.get("dev") for node in root.findall("devices/disk[@device='disk']/target")
        } == targets
        assert {node.get("address") for node in root.findall("devices/interface/mac")} == macs
    root = etree.fromstring(vm.xml(inactive=True))
    assert int(root.findtext("memory") or 0) << 10 == spec.memory
    vcpu = root.find("vcpu")
    assert vcpu is not None
    assert int(vcpu.get("current") or vcpu.text or 0) == spec.vcpus


# -- disks ----------------------------------------------------------------------------------------


def test_a_disk_comes_grows_and_goes(vm: vmctl.VM, host: vmctl.Host) -> None:
    disk = vm.disks.attach(DiskSpec(size="16MiB", serial="data"))
    assert (disk.target, disk.capacity, disk.now, disk.later) == ("vdb", 16 * MIB, True, True)
    agreed(vm)
    soon(vm, "cat /sys/block/vdb/size /sys/block/vdb/serial", f"{16 * MIB // 512}\ndata")
    vm.run("echo kept | sudo -n dd of=/dev/vdb conv=fsync 2>/dev/null", check=True)

    assert vm.disks.resize("vdb", "32MiB").capacity == 32 * MIB
    soon(vm, "cat /sys/block/vdb/size", str(32 * MIB // 512))
    record = vm._domain.record()
    assert record is not None
    assert record.spec["disks"][1]["size"] == "32MiB"
    with pytest.raises(vmctl.UsageError, match="it only grows"):
        vm.disks.resize("vdb", "8MiB")

    gone = vm.disks.detach("vdb")
    agreed(vm)
    soon(vm, "ls /sys/block | grep -c vd", "1")
    # Its volume is one like any other now, and comes back with what is in it.
    name = Path(gone.source).name
    assert name in pool_volumes(host)
    again = vm.disks.attach(DiskSpec(volume=name, target="vdc"))
    assert again.target == "vdc"
    soon(vm, "sudo -n head -c 4 /dev/vdb || sudo -n head -c 4 /dev/vdc", "kept")
    vm.disks.detach("vdc")
    agreed(vm)
    host.volumes.delete(name)


def test_a_disk_on_scsi_is_limited(vm: vmctl.VM) -> None:
    disk = vm.disks.attach(DiskSpec(size="16MiB", bus="scsi", iotune=IoTuneSpec(read_iops_sec=900)))
    assert disk.limits == {"read_iops_sec": 900}
    target = disk.target
    limited = vm.disks.set_limits(target, IoTuneSpec(write_bytes_sec="1MiB"))
    assert limited.limits == {"write_bytes_sec": MIB}
    soon(vm, "cat /sys/block/sda/size", str(16 * MIB // 512))
    write = "sudo -n dd if=/dev/zero of=/dev/sda bs=1M count=4 oflag=direct"
    began = time.monotonic()
    vm.run(write, check=True)
    # What may pass at once is a tenth of a second's worth.
    assert time.monotonic() - began > 2.5
    root = etree.fromstring(vm.xml(inactive=True))
    assert root.findtext("devices/disk/iotune/write_bytes_sec") == str(MIB)
    assert vm.disks.set_limits(target, None).limits == {}
    agreed(vm)
    vm.disks.detach(target, delete=True)
    agreed(vm)
    soon(vm, "ls /sys/block | grep -c sda", "0")


def test_a_clone_of_an_image_is_attached(vm: vmctl.VM, micro_image: str) -> None:
    disk = vm.disks.attach(DiskSpec(image=micro_image, size="1GiB"))
    soon(vm, "cat /sys/block/vdb/size", str(1024 * MIB // 512))
    soon(vm, "sudo -n head -c 512 /dev/vdb | tail -c 2 | od -An -tx1", "55 aa")
    vm.disks.detach(disk.target, delete=True)
    agreed(vm)


def test_what_is_for_the_next_start_waits(idle: Callable[..., vmctl.VM], host: vmctl.Host) -> None:
    vm = idle()
    disk = vm.disks.attach(DiskSpec(size="1MiB", bus="sata"), next_start=True)
    assert (disk.now, disk.later) == (False, True)
    vm.stop(timeout=0, force=True)
    agreed(vm)
    vm.start()
    assert [(entry.target, entry.now) for entry in vm.disks.list()] == [("sda", True)]
    agreed(vm)
    with pytest.raises(vmctl.UnsupportedError, match="can't be unplugged"):
        vm.disks.detach("sda", force=True)
    assert vm.disks.detach("sda", force=True, delete=False, next_start=True).now
    (left,) = vm.disks.list()
    assert (left.now, left.later) == (True, False)
    vm.stop(timeout=0, force=True)
    agreed(vm)
    host.volumes.delete(Path(left.source).name)


def test_bad_disks_are_refused_and_change_nothing(
    vm: vmctl.VM, host: vmctl.Host, idle: Callable[..., vmctl.VM], micro_image: str
) -> None:
    before = (*devices(vm), pool_volumes(host))
    with pytest.raises(vmctl.NotFoundError, match="has no disk 'vdx'") as missing:
        vm.disks.detach("vdx")
    assert missing.value.hint == "its disks are: vda"
    with pytest.raises(vmctl.ConflictError, match="is the root disk"):
        vm.disks.detach("vda")
    with pytest.raises(vmctl.UnsupportedError, match="can't be plugged"):
        vm.disks.attach(DiskSpec(size="1MiB", bus="sata"))
    # Errors speak of what was given, which is in no list.
    with pytest.raises(vmctl.SpecError, match=f"'{vm.name}' has a drive 'vda' already"):
        vm.disks.attach(DiskSpec(size="1MiB", target="vda"))
    with pytest.raises(vmctl.SpecError, match="^the disk is not valid: bus: "):
        vm.disks.attach(DiskSpec(size="1MiB", bus="ide"))
    with pytest.raises(vmctl.NotFoundError, match=r"^volume: .*no volume 'nowhere'"):
        vm.disks.attach(DiskSpec(volume="nowhere"))
    with pytest.raises(vmctl.SpecError) as given:
        vm.disks.attach(DiskSpec(image=micro_image, size="1MiB"))
    assert [problem.path for problem in given.value.problems] == ["size"]
    with pytest.raises(vmctl.ConflictError, match="is not deleted|needs it|root"):
        vm.disks.detach("vda", delete=True)
    host.volumes.create("theirs", "1MiB")
    other = idle(disks=[{"volume": "theirs"}])
    with pytest.raises(vmctl.ConflictError, match=f"'{other.name}' runs and writes to") as used:
        vm.disks.attach(DiskSpec(volume="theirs"))
    assert f"vmctl disk detach {other.name} vda" in used.value.hint
    second = idle(start=False, disks=[{"volume": "theirs"}])
    with pytest.raises(vmctl.ConflictError, match=f"'{other.name}' runs and writes to its") as used:
        second.start()
    assert f"vmctl disk detach {other.name} vda" in used.value.hint
    assert second.state == "shut off"
    with pytest.raises(vmctl.ConflictError, match=f"'{other.name}' runs and writes to its"):
        idle(disks=[{"volume": "theirs"}])
    other.stop(timeout=0, force=True)
    vm.disks.attach(DiskSpec(volume="theirs"))
    with pytest.raises(vmctl.ConflictError, match=f"'{vm.name}' runs and writes to its disk vda"):
        second.start()
    vm.disks.detach("vdb")
    second.start()
    second.stop(timeout=0, force=True)
    second.disks.detach("vda", force=True)
    host.volumes.delete(other.disks.detach("vda", force=True).source.rpartition("/")[2])
    assert (*devices(vm), pool_volumes(host) - _of(other) - _of(second)) == before


def devices(vm: vmctl.VM) -> tuple[str, str]:
    """Return all devices, of the running machine and of its definition, as libvirt has them."""
    found = []
    for inactive in (False, True):
        node = etree.fromstring(vm.xml(inactive=inactive)).find("devices")
        assert node is not None
        # libvirt forgets the alias of a drive in the definition when that is changed the next time.
        etree.strip_elements(node, "alias")
        found.append(etree.tostring(node, encoding="unicode"))
    return found[0], found[1]


def _of(vm: vmctl.VM) -> set[str]:
    record = vm._domain.record()
    return set() if record is None else {volume.name for volume in record.volumes}


def test_a_revert_brings_back_the_devices_of_its_time(vm: vmctl.VM) -> None:
    kept = vm.disks.attach(DiskSpec(size="1MiB", serial="then"))
    vm.snapshots.create("then")
    with pytest.raises(vmctl.ConflictError, match="is in the snapshot 'then'"):
        vm.disks.detach(kept.target, delete=True)
    vm.disks.detach(kept.target)
    agreed(vm)
    vm.snapshots.revert("then")
    agreed(vm)
    soon(vm, "cat /sys/block/vdb/serial", "then")
    vm.snapshots.delete("then")
    vm.disks.detach(kept.target, delete=True)
    agreed(vm)


# -- NICs and CDs ---------------------------------------------------------------------------------

_CARRIERS = "for nic in /sys/class/net/*; do echo $(cat $nic/address $nic/carrier); done | grep "


def test_a_nic_comes_and_goes_and_so_does_its_cable(vm: vmctl.VM) -> None:
    nic = vm.nics.attach(NicSpec.model_validate({"network": "default"}))
    agreed(vm)
    soon(vm, _CARRIERS + nic.mac, f"{nic.mac} 1")
    assert vm.nics.set_link(nic.mac, up=False).link == "down"
    soon(vm, _CARRIERS + nic.mac, f"{nic.mac} 0")
    assert '<link state="down"/>' in vm.xml(inactive=True).replace("'", '"')
    assert vm.nics.set_link(nic.mac, up=True).link == "up"
    soon(vm, _CARRIERS + nic.mac, f"{nic.mac} 1")

    with pytest.raises(vmctl.SpecError, match=f"has a NIC '{nic.mac}' already"):
        vm.nics.attach(NicSpec.model_validate({"user": True, "mac": nic.mac}))
    with pytest.raises(vmctl.NotFoundError, match="has no NIC") as missing:
        vm.nics.detach("52:54:00:00:00:01")
    assert nic.mac in missing.value.hint
    vm.nics.detach(nic.mac)
    agreed(vm)
    soon(vm, f"grep -l {nic.mac} /sys/class/net/*/address", "")


def test_bandwidth_is_set_or_refused_in_one_sentence(
    vm: vmctl.VM, idle: Callable[..., vmctl.VM]
) -> None:
    nic = vm.nics.attach(NicSpec.model_validate({"network": "default"}))
    limits = BandwidthSpec.model_validate({"inbound": 1000, "outbound": {"average": 500}})
    refused: vmctl.UnsupportedError | None = None
    try:
        now = vm.nics.set_bandwidth(nic.mac, limits)
    except vmctl.UnsupportedError as error:
        refused, now = error, vm.nics.list()[1]
    if refused is None:
        assert now.bandwidth == {"inbound": {"average": 1000}, "outbound": {"average": 500}}
    else:
        # This host's kernel lacks what it takes; nothing was changed.
        assert "could not set the bandwidth" in refused.brief
        assert now.bandwidth == {}
        agreed(vm)
        with pytest.raises(vmctl.UnsupportedError, match="lacks what shapes traffic"):
            idle(nics=[{"network": "default", "bandwidth": {"inbound": 1000}}])
    later = vm.nics.set_bandwidth(nic.mac, limits, next_start=True)
    assert later.later
    assert '<inbound average="1000"/>' in vm.xml(inactive=True).replace("'", '"')
    vm.nics.set_bandwidth(nic.mac, None)
    user = vm.nics.list()[0]
    with pytest.raises(vmctl.UnsupportedError, match="user-mode"):
        vm.nics.set_bandwidth(user.mac, limits)
    vm.nics.detach(nic.mac)
    agreed(vm)


def test_a_cd_is_inserted_changed_and_ejected(
    vm: vmctl.VM, host: vmctl.Host, tmp_path: Path
) -> None:
    discs = []
    for word in ("one", "two"):
        discs.append(tmp_path / f"{word}.iso")
        discs[-1].write_bytes(build_iso({"readme": f"disc {word}\n".encode()}))
    drive = next(drive.target for drive in vm.cdroms.list() if drive.target != "sdz")
    before = pool_volumes(host)
    mount = "for d in /dev/sr*; do sudo -n mount -r $d /mnt 2>/dev/null; done; cat /mnt/readme"
    with pytest.raises(vmctl.NotFoundError, match="no CD-ROM drive 'sdq'"):
        vm.cdroms.insert("sdq", discs[0])
    with pytest.raises(vmctl.ConflictError, match="cloud-init's seed"):
        vm.cdroms.insert("sdz", discs[0])
    assert vm.cdroms.insert(drive, discs[0]).now
    soon(vm, mount, "disc one")
    with pytest.raises(vmctl.ConflictError, match="there is a medium"):
        vm.cdroms.insert(drive, discs[1])
    # The guest has it mounted, and its tray is locked.
    with pytest.raises(vmctl.WrongStateError, match="locked the tray"):
        vm.cdroms.insert(drive, discs[1], replace=True)
    assert len(pool_volumes(host) - before) == 1
    soon(vm, "cat /mnt/readme", "disc one")
    vm.run("sudo -n umount /mnt", check=True)
    vm.cdroms.insert(drive, discs[1], replace=True)
    soon(vm, mount, "disc two")
    assert len(pool_volumes(host) - before) == 1
    vm.cdroms.eject(drive, force=True)
    vm.run("sudo -n umount /mnt", check=True)
    assert [entry.source + entry.now for entry in vm.cdroms.list()] == ["", ""]
    assert vm.cdroms.eject(drive).source == ""
    assert pool_volumes(host) == before


# -- processors and memory ------------------------------------------------------------------------


def test_processors_come_and_go(vm: vmctl.VM) -> None:
    assert vm.set_vcpus(3).guest == 3
    soon(vm, "nproc", "3")
    agreed(vm)
    # Under emulation they stay plugged in, and the guest's agent switches them off.
    assert vm.set_vcpus(1).guest == 1
    soon(vm, "nproc", "1")
    agreed(vm)
    with pytest.raises(vmctl.UsageError, match="can have 3 processors at most") as over:
        vm.set_vcpus(4)
    assert "max_vcpus" in over.value.hint
    with pytest.raises(vmctl.UsageError, match="one processor at least"):
        vm.set_vcpus(0)
    agreed(vm)
    assert vm._domain.is_active()


def _guest_mib(vm: vmctl.VM) -> int:
    return int(vm.run("free -m | awk '/^Mem/ {print $2}'", check=True).stdout)


def test_memory_comes_and_goes(vm: vmctl.VM) -> None:
    began = _guest_mib(vm)
    # Below what it started with: the balloon.
    assert vm.set_memory("208MiB").now == 208 * MIB
    agreed(vm)
    assert began - _guest_mib(vm) == pytest.approx(48, abs=4)
    with pytest.raises(vmctl.ConflictError, match="uses .* can't do with 32 MiB"):
        vm.set_memory("32MiB")
    assert memory.memory_of(vm._domain).now == 208 * MIB
    agreed(vm)
    # Above: plugged in.
    more = vm.set_memory("512MiB")
    assert (more.now, more.plugged) == (512 * MIB, 256 * MIB)
    agreed(vm)
    assert _guest_mib(vm) - began == pytest.approx(256, abs=4)
    pending = vm.compare(vm.with_values({})).pending
    assert "memory" not in {entry.path for entry in pending}
    with pytest.raises(vmctl.SpecError, match="max_memory"):
        vm.set_memory("2GiB")
    with pytest.raises(vmctl.UsageError, match="write it like"):
        vm.set_memory("much")
    less = vm.set_memory("256MiB", timeout=120)
    assert less.now == pytest.approx(256 * MIB, abs=1 * MIB)
    agreed(vm)
    assert _guest_mib(vm) - began == pytest.approx(0, abs=8)


def test_a_paused_guest_takes_no_processors(idle: Callable[..., vmctl.VM]) -> None:
    vm = idle(vcpus=1, max_vcpus=2)
    vm.pause()
    (difference,) = vm.compare(vm.with_values({"vcpus": 2})).differences
    assert (difference.when, "is paused" in difference.why) == ("next start", True)
    with pytest.raises(vmctl.UnsupportedError, match="is paused"):
        vm.set_vcpus(2)
    raw = vm._domain.raw()
    assert raw.vcpusFlags(1) == 1
    agreed(vm)
    vm.apply(vm.with_values({"vcpus": 2}))
    assert (raw.vcpusFlags(1), raw.vcpusFlags(2)) == (1, 2)
    agreed(vm)


def test_what_is_off_is_resized_for_its_next_start(idle: Callable[..., vmctl.VM]) -> None:
    vm = idle(start=False, memory="64MiB")
    vm.set_vcpus(2)
    vm.set_memory("96MiB")
    agreed(vm)
    vm.start()
    with pytest.raises(vmctl.UsageError, match="2 processors at most"):
        vm.set_vcpus(3)
    with pytest.raises(vmctl.UnsupportedError, match="can have 96MiB of memory at most"):
        vm.set_memory("128MiB")
    assert vm.set_memory("128MiB", next_start=True).later == 128 * MIB
    assert vm.set_vcpus(3, next_start=True).later == 3
    agreed(vm)
    # Nothing in it answers, so nothing can be taken from it.
    with pytest.raises(vmctl.UnsupportedError, match="does not report what it uses"):
        vm.set_memory("48MiB")
    with pytest.raises(vmctl.UnsupportedError, match="agent"):
        vm.set_vcpus(1)
    agreed(vm)


def test_a_dimm_is_plugged_in_where_it_is_asked_for(idle: Callable[..., vmctl.VM]) -> None:
    vm = idle(memory="128MiB", max_memory="512MiB")
    with pytest.raises(vmctl.UsageError, match="whole 128 MiB"):
        vm.set_memory("160MiB", model="dimm")
    agreed(vm)
    more = vm.set_memory("256MiB", model="dimm")
    assert (more.now, more.plugged, more.later) == (256 * MIB, 128 * MIB, 256 * MIB)
    root = etree.fromstring(vm.xml())
    assert [node.get("model") for node in root.findall("devices/memory")] == ["dimm"]
    agreed(vm)
    vm.stop(timeout=0, force=True)
    vm.start()
    assert memory.memory_of(vm._domain).plugged == 0
    agreed(vm)
