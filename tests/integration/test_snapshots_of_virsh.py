"""Snapshots that another program took are listed, gone back to and deleted as one's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest
from lxml import etree

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.render.volume import render_volume

from .conftest import enter_host
from .test_attached_volumes import write
from .test_backup_faults import blank_machine, content
from .test_races import chain

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def vm(host: vmctl.Host, tmp_path: Path) -> Iterator[vmctl.VM]:
    """A machine without a guest, off."""
    machine = blank_machine(host, tmp_path)
    yield machine
    machine.delete()


def take(vm: vmctl.VM, name: str) -> None:
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    vm._domain.raw().snapshotCreateXML(
        f"<domainsnapshot><name>{name}</name></domainsnapshot>", flags
    )


def test_external_ones_are_deleted_and_their_layers_merged(vm: vmctl.VM, tmp_path: Path) -> None:
    first = chain(vm)
    vm.start()
    take(vm, "one")
    write(vm, 0x11, "virtio-disk0")
    take(vm, "two")
    write(vm, 0x22, "virtio-disk0")
    vm.snapshots.delete("one")
    assert len(chain(vm)) == 2
    vm.snapshots.revert("two")
    assert content(vm, tmp_path)[:4096] == b"\x11" * 4096
    vm.snapshots.delete("two")
    assert chain(vm) == first
    assert content(vm, tmp_path)[:4096] == b"\x11" * 4096
    # What is left unmerged when it goes, goes with it.
    take(vm, "three")
    vm.snapshots.create("ours", kind="external")
    assert vm.snapshots.of_others() == ("three",)
    vm.snapshots.create("last", kind="external")
    rules = vmctl.Retention(last=1)
    assert vm.snapshots.prune(rules, dry_run=True) == ("ours",)
    vm.snapshots.delete("last")
    vm.clone(f"{vm.name}-l", linked=True, from_snapshot="ours").delete()
    vm.snapshots.delete("three")


def test_a_medium_that_is_gone_does_not_cost_the_guest(host: vmctl.Host, vm: vmctl.VM) -> None:
    medium = StoredVolume(host._connection, "default", "in-the-drive.iso")
    medium.create(render_volume(medium.name, capacity=1 << 20, format="raw"))
    drive = (
        f"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source "
        f"file='{medium.path()}'/><target dev='sda' bus='sata'/><readonly/></disk>"
    )
    raw = vm._domain.raw()
    raw.attachDeviceFlags(drive, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    vm.start()
    vm.snapshots.create("with-it", kind="external")
    root = etree.fromstring(drive)
    root.remove(root.find("source"))  # type: ignore[arg-type]
    both = libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_AFFECT_LIVE
    raw.updateDeviceFlags(etree.tostring(root, encoding="unicode"), both)
    medium.delete()
    with pytest.raises(vmctl.ImageError, match="goes on with a file that is gone"):
        vm.snapshots.revert("with-it")
    assert vm.state == "running"


def test_a_checkpoint_that_libvirt_was_made_to_forget(
    vm: vmctl.VM, private_host: private.PrivateHost, tmp_path: Path
) -> None:
    forget = libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
    vm.start()
    vm.snapshots.create("before")
    vm.snapshots.create("before-2")
    raw = vm._domain.raw()
    made = raw.checkpointCreateXML("<domaincheckpoint><name>theirs</name></domaincheckpoint>")
    vm.stop(force=True, timeout=0)
    made.delete(forget)
    # Started or not, QEMU would refuse it, and end.
    for start in (False, True):
        if start:
            vm.start()
        with pytest.raises(vmctl.ConflictError, match="'vda' .* keeps track of changes"):
            vm.snapshots.revert("before")
        assert vm.state == ("running" if start else "shut off")
    vm.snapshots.delete("before")
    with pytest.raises(vmctl.ConflictError, match="keeps track of changes for somebody"):
        vm.snapshots.create("after")
    vm.snapshots.delete("before-2")
    taken = vm.snapshots.create("after")
    assert (taken.kind, "keeps track" in taken.why) == ("external", True)
    vm.snapshots.revert("after")
    vm.snapshots.delete("after")
    vm.stop(force=True, timeout=0)
    (disk,) = vm._domain.disks()
    remove = ["qemu-img", "bitmap", "--remove", disk.path, "theirs"]
    subprocess.run([*enter_host(private_host), *remove], check=True)
    assert vm.snapshots.create("forgotten").kind == "internal"
    vm.snapshots.revert("forgotten")
