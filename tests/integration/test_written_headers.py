"""Headers that a guest wrote into its own raw disk, naming a file of the host: never followed."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

import vmctl
from vmctl.errors import ImageError
from vmctl.hypervisor import private
from vmctl.hypervisor.pools import open_pool
from vmctl.snapshots import SnapshotKind

from .clones import guestless

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

SECRET = b"root:x:0:0\n" * 100


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host that QEMU may read, but no guest."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def header(secret: Path, tmp_path: Path) -> bytes:
    """What shows a program that believes it the host's file."""
    path = tmp_path / "overlay"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", str(secret), "-F", "raw"]
    subprocess.run([*command, str(path), "1M"], check=True)
    return path.read_bytes()


@pytest.fixture
def folder(private_host: private.PrivateHost) -> Path:
    return private_host.state_dir / "lib" / "images"


def write(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)


@pytest.fixture
def vm(host: vmctl.Host, folder: Path, header: bytes, tmp_path: Path) -> Iterator[vmctl.VM]:
    """A machine that is off, whose guest wrote the header into its disk vdb."""
    made = guestless(host, tmp_path)
    write(folder / raw_disk(made), header)
    yield made
    made.delete()


def raw_disk(vm: vmctl.VM) -> str:
    """Return the volume of its disk vdb."""
    return Path(vm._domain.disks()[1].path).name


def test_neither_a_clone_nor_a_copy_has_the_hosts_file(
    host: vmctl.Host, vm: vmctl.VM, folder: Path, header: bytes
) -> None:
    volume, name = raw_disk(vm), f"c{uuid.uuid4().hex[:8]}"
    before = sorted(path.name for path in folder.iterdir())
    words = "is declared as raw, and what is in it is qcow2"
    for _ in range(2):
        with pytest.raises(ImageError, match=words):
            vm.clone(name)
        with pytest.raises(ImageError, match=words):
            host.volumes.clone(volume, name)
        # And so when libvirt has seen what it looks like.
        open_pool(host._connection, "default").refresh()
    assert sorted(path.name for path in folder.iterdir()) == before
    # What only libvirt would take for something else is none for vmctl to have converted.
    vdi = bytes(64) + b"\x7f\x10\xda\xbe\x01\x00\x01\x00"
    write(folder / volume, vdi.ljust(len(header), b"\0"))
    with pytest.raises(ImageError, match="is raw, and looks like vdi"):
        vm.clone(name)


def test_a_volume_of_nobodys_that_leads_to_the_host_is_not_copied(
    host: vmctl.Host, folder: Path, header: bytes
) -> None:
    name = f"v{uuid.uuid4().hex[:8]}"
    host.volumes.create(name, "1MiB", format="raw")
    write(folder / name, header)
    with pytest.raises(ImageError, match="lies on .* which is no volume of any pool"):
        host.volumes.clone(name, f"{name}-copy")
    host.volumes.delete(name)


def test_what_a_snapshot_froze_stays_raw(host: vmctl.Host, vm: vmctl.VM, tmp_path: Path) -> None:
    frozen = vm._domain.disks()[1].path
    vm.snapshots.create("first", kind=SnapshotKind.EXTERNAL, memory=False)
    vm.snapshots.create("second", kind=SnapshotKind.EXTERNAL, memory=False)
    open_pool(host._connection, "default").refresh()
    name = f"c{uuid.uuid4().hex[:8]}"
    for snapshot in ("first", None):
        with pytest.raises(ImageError, match="is declared as raw"):
            vm.clone(name, from_snapshot=snapshot)
    # What lies on it reads it as what it is: bytes; and that is not carried out of here either.
    clone = vm.clone(name, linked=True, from_snapshot="second")
    with pytest.raises(ImageError, match="is an overlay"):
        clone.export(tmp_path / "out", format="raw")
    clone.delete()
    # Merged into it, the second snapshot names it: as raw, whatever it looks like.
    vm.snapshots.delete("first")
    text = vm._domain.raw().snapshotLookupByName("second").getXMLDesc(0)
    named = [
        driver.get("type")
        for disk in etree.fromstring(text).iter("disk")
        for driver, source in zip(disk.findall("driver"), disk.findall("source"), strict=True)
        if source.get("file") == frozen
    ]
    assert named
    assert set(named) == {"raw"}
    vm.snapshots.delete("second")


def test_what_a_guest_wrote_as_its_firmwares_variables_is_copied_as_it_is(
    host: vmctl.Host, vm: vmctl.VM, folder: Path, header: bytes
) -> None:
    vm.start()
    vm.stop(timeout=0, force=True)
    nvram = folder / f"{vm.name}.{vm.uuid}.nvram"
    write(nvram, header)
    open_pool(host._connection, "default").refresh()
    vm.snapshots.create("one", kind=SnapshotKind.EXTERNAL, memory=False)
    kept = [path for path in folder.glob("*.nvram") if vm.uuid in path.name and path != nvram]
    assert [path.read_bytes() for path in kept] == [nvram.read_bytes()]
    vm.snapshots.delete("one")
