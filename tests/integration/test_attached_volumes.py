"""Snapshots of a machine with a volume that was there before it: what is written ends up there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import libvirt_qemu
import pytest

import vmctl
from vmctl.hypervisor.volumes import StoredVolume, at_path
from vmctl.render.volume import render_volume

from .servers import loop_device
from .test_backup_faults import blank_machine

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def volume(host: vmctl.Host) -> Iterator[StoredVolume]:
    """A person's own volume: raw, 1 MiB of zeros."""
    made = StoredVolume(host._connection, "default", "persons-own.raw")
    made.create(render_volume(made.name, capacity=1 << 20, format="raw"))
    yield made
    made.delete()


def write(vm: vmctl.VM, pattern: int, disk: str = "virtio-disk1") -> None:
    """Write to a disk, the second one, as its guest would."""
    libvirt_qemu.qemuMonitorCommand(
        vm._domain.raw(),
        f'qemu-io -d /machine/peripheral/{disk}/virtio-backend "write -P {pattern} 0 4k"',
        libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP,
    )


def test_what_is_written_since_a_snapshot_is_not_lost(
    host: vmctl.Host, volume: StoredVolume, tmp_path: Path
) -> None:
    vm = blank_machine(host, tmp_path)
    vm.disks.attach(vmctl.DiskSpec(volume=volume.name, format="raw"))
    vm.start()
    vm.snapshots.create("first")
    write(vm, 0x11)
    # It lies in a layer that is the machine's, and must not go with it.
    with pytest.raises(vmctl.ConflictError, match="persons-own.raw since its first snapshot"):
        vm.delete()
    with pytest.raises(vmctl.ConflictError, match="since its snapshot 'first'"):
        vm.disks.detach("vdb", timeout=0.1)
    vm.snapshots.create("second", memory=False)
    write(vm, 0x22)
    vm.snapshots.delete("first")
    # What the second one goes back to.
    assert volume.read()[:4096] == b"\x11" * 4096
    vm.snapshots.delete("second")
    vm.stop(force=True, timeout=0)
    assert volume.read()[:4096] == b"\x22" * 4096
    assert [disk.path for disk in vm._domain.disks()][1:] == [volume.path()]
    vm.disks.detach("vdb")
    vm.delete()
    assert volume.read()[:4096] == b"\x22" * 4096


def test_what_is_written_over_a_device_stays_in_a_volume(host: vmctl.Host, tmp_path: Path) -> None:
    vm = blank_machine(host, tmp_path)
    with loop_device(tmp_path / "device", 1 << 20) as device:
        vm.disks.attach(vmctl.DiskSpec(volume=device, format="raw"))
        vm.snapshots.create("first")
        vm.snapshots.delete("first")
        with pytest.raises(vmctl.ConflictError, match=f"wrote to {device}") as caught:
            vm.delete()
        assert "then detach vdb" in caught.value.hint
        layer = vm.disks.detach("vdb").source
        vm.delete()
        left = at_path(host._connection, layer)
        assert left.facts().backing == device
        left.delete()
