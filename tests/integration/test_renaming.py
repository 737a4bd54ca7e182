"""Another name for a machine, and all that goes by its UUID."""

from __future__ import annotations

import threading
import uuid

import pytest
from lxml import etree

import vmctl
from vmctl.errors import ConflictError, UnsupportedError, UsageError, WrongStateError
from vmctl.hypervisor.metadata import Role

from .conftest import SpecMaker

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]


def test_rename_and_save_with_a_connection_that_is_kept(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    vm = host.launch(make_spec())
    old, new = vm.name, f"r{uuid.uuid4().hex[:8]}"
    # The connection is gone with the memory, and opened anew after it.
    kept = vm.ssh()
    vm.save()
    assert not kept.alive
    vm.start()
    assert vm.run("hostname", check=True, timeout=60).stdout.strip() == old
    with pytest.raises(WrongStateError, match="only a machine that is off") as caught:
        vm.rename(new)
    assert caught.value.state == "running"
    vm.snapshots.create("before")
    vm.stop(timeout=30, force=True)
    with pytest.raises(UsageError, match="can't be a machine's name"):
        vm.rename("a/b")
    other = host.create(make_spec(cloud_init=None))
    with pytest.raises(ConflictError, match="there is a machine .* already"):
        vm.rename(other.name)
    other.delete()

    vm.rename(new)
    vm.rename(new)
    raw = host._connection.raw
    assert raw.lookupByName(new).UUIDString() == vm.uuid
    assert old not in {domain.name() for domain in raw.listAllDomains()}
    assert (vm.name, host.get(new).uuid) == (new, vm.uuid)
    assert vm._record().spec["name"] == new
    assert vm._record().spec["cloud_init"]["hostname"] == old
    # The host key that was known is known still, and the guest's host name is what it was.
    vm.snapshots.revert("before")
    assert (vm.name, vm._record().spec["name"]) == (new, new)
    assert raw.lookupByUUIDString(vm.uuid).name() == new
    assert vm.run("hostname", check=True, timeout=60).stdout.strip() == old
    vm.delete()


def test_two_renames_at_once(host: vmctl.Host, make_spec: SpecMaker) -> None:
    machines = [host.create(make_spec(cloud_init=None)) for _ in range(2)]
    new = f"r{uuid.uuid4().hex[:8]}"
    results: list[BaseException | None] = []

    def rename(machine: vmctl.VM) -> None:
        try:
            machine.rename(new)
        except vmctl.VmctlError as error:
            results.append(error)
        else:
            results.append(None)

    threads = [threading.Thread(target=rename, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (failed,) = [error for error in results if error is not None]
    assert results.count(None) == 1
    assert isinstance(failed, ConflictError)
    assert "already" in failed.brief
    for machine in machines:
        record = machine._record()
        assert record.spec["name"] == machine.name
        machine.delete()


def test_snapshots_outlast_a_rename_or_refuse_it(host: vmctl.Host, make_spec: SpecMaker) -> None:
    vm = host.create(make_spec(cloud_init=None))
    vm.snapshots.create("off", kind="internal")
    vm.rename(f"r{uuid.uuid4().hex[:8]}")
    new = vm.name
    vm.snapshots.revert("off")
    raw = host._connection.raw
    assert (vm.name, raw.lookupByUUIDString(vm.uuid).name()) == (new, new)
    assert raw.lookupByName(new).UUIDString() == vm.uuid
    vm.snapshots.delete("off")

    # libvirt restores a file of memory under the name that it was written with, and no other.
    vm.start()
    vm.snapshots.create("memory", kind="external", memory=True)
    vm.stop(timeout=0, force=True)
    with pytest.raises(ConflictError, match="its snapshot 'memory' could not be gone back to"):
        vm.rename("other")
    assert vm.name == raw.lookupByUUIDString(vm.uuid).name() == new
    vm.delete()


def nvram_of(vm: vmctl.VM) -> str:
    return etree.fromstring(vm.xml(inactive=True)).findtext("os/nvram") or ""


def test_uefi_keeps_its_variables_under_another_name(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec(firmware="uefi", cloud_init=None)
    vm = host.create(spec)
    vm.start()
    vm.stop(timeout=0, force=True)
    own = nvram_of(vm)
    vm.rename(f"r{uuid.uuid4().hex[:8]}")
    assert nvram_of(vm) == own
    # The next one of the old name has variables of its own.
    second = host.create(spec)
    second.start()
    assert nvram_of(second) != own
    assert vm.start().how == "booted"
    second.delete()

    # Where an older vmctl left them to libvirt, the file has the machine's name.
    vm.stop(timeout=0, force=True)
    record = vm._record()
    volumes = tuple(entry for entry in record.volumes if entry.role is not Role.NVRAM)
    vm._domain.update_record(volumes=volumes)
    with pytest.raises(UnsupportedError, match="has UEFI"):
        vm.rename("other")
    vm._domain.write_record(record)
    vm.delete()
