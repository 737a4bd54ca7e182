"""Machines that can't be backed up as they would be restored, and backups that fit no machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

import vmctl
from vmctl.backing_up import manifest as manifests
from vmctl.backing_up.manifest import Manifest
from vmctl.hypervisor import pools

from .conftest import pool_volumes
from .test_backup_faults import blank_machine

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def vm(host: vmctl.Host, tmp_path: Path) -> Iterator[vmctl.VM]:
    """A machine without a guest, off, with two disks."""
    machine = blank_machine(host, tmp_path)
    machine.disks.attach(vmctl.DiskSpec(size="1MiB"))
    yield machine
    machine.delete()


def test_other_disks_than_its_record_has(vm: vmctl.VM, tmp_path: Path) -> None:
    raw = vm._domain.raw()
    later = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    root = etree.fromstring(raw.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    _first, second = root.findall("devices/disk")
    own = etree.tostring(second, encoding="unicode")
    (target,) = second.findall("target")
    for address in second.findall("address"):
        second.remove(address)
    raw.detachDeviceFlags(own, later)
    target.set("dev", "vdc")
    raw.attachDeviceFlags(etree.tostring(second, encoding="unicode"), later)
    with pytest.raises(vmctl.UnsupportedError, match="the disks vda, vdc, .* knows of vda, vdb"):
        vm.backup(tmp_path / "backups")
    raw.detachDeviceFlags(etree.tostring(second, encoding="unicode"), later)
    raw.attachDeviceFlags(own, later)
    vm.backup(tmp_path / "backups")
    vm.start()
    vm.disks.attach(vmctl.DiskSpec(size="1MiB"), next_start=True)
    with pytest.raises(vmctl.ConflictError, match="others at its next start"):
        vm.backup(tmp_path / "backups")
    vm.stop(force=True, timeout=0)
    made = vm.backup(tmp_path / "backups")
    assert (made.kind, "other disks" in made.why) == ("full", True)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the manifest of a backup says, and its digest with it."""
    found, _sha256 = manifests.read(folder)
    content = found.model_dump(mode="json")
    change(content)
    changed = Manifest.model_validate_json(json.dumps(content))
    (folder / manifests.NAME).write_bytes(manifests.to_bytes(changed)[0])


def test_a_backup_of_another_architecture(host: vmctl.Host, vm: vmctl.VM, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    made = vm.backup(place)
    before = [disk.path for disk in vm._domain.disks()], pool_volumes(host)
    for architecture in ("aarch64", "i686"):
        rewrite(place / vm.uuid / made.id, lambda it, a=architecture: it.update(architecture=a))  # type: ignore[misc]
        with pytest.raises(vmctl.UnsupportedError, match=f"of an {architecture} machine"):
            vm.restore(place)
    rewrite(place / vm.uuid / made.id, lambda it: it.update(architecture="aarch64"))
    assert host._connection is not None
    with pytest.raises(vmctl.UnsupportedError, match="the host has QEMU for .*x86_64"):
        host.restore(place, name="never")
    pools.refresh(host._connection, "default")
    assert before == ([disk.path for disk in vm._domain.disks()], pool_volumes(host))
    assert "never" not in {entry.name for entry in host.list()}
