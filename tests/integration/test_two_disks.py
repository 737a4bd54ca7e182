"""A machine with two disks through each format: each disk in its place, byte for byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmctl

from .packages import filled_in, write_manifest, write_stream

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

SAMPLES = Path(__file__).parents[1] / "unit" / "imaging" / "samples"
SIZES = {"sda": 4 << 20, "sdb": 6 << 20}
Digests = dict[str, str]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert [path for path in folder.rglob("*") if path.is_file()] == []


@pytest.fixture
def original(tmp_path: Path) -> Digests:
    """The disks: data, and holes of more than a grain between."""
    folder = tmp_path / "original"
    folder.mkdir()
    for name, size in SIZES.items():
        with (folder / f"{name}.raw").open("xb") as file:
            for place in (0, 1 << 20, size - 70_000):
                file.seek(place)
                file.write(os.urandom(70_000))
    return digests(folder)


@pytest.fixture
def vm(host: vmctl.Host, tmp_path: Path, original: Digests, scratch: Path) -> Iterator[vmctl.VM]:
    """A machine of these disks, out of a package whose second disk is listed first."""
    names = [tmp_path / f"shop-disk00{number}.vmdk" for number in (1, 2)]
    for name, disk in zip(names, SIZES, strict=True):
        write_stream(tmp_path / "original" / f"{disk}.raw", name)
    descriptor = tmp_path / "shop.ovf"
    values = {
        "10737418240": str(SIZES["sda"]),
        "1073741824": str(SIZES["sdb"]),
        "2048": "64",
        '<Firmware type="EFI"/>': '<Firmware type="BIOS"/>',
    }
    descriptor.write_text(filled_in(SAMPLES / "virtualbox.ovf", values), encoding="utf-8")
    write_manifest(descriptor, names, "sha1", "{kind} ({name}) = {digest}")
    made = host.import_machine(descriptor, name="two")
    yield made
    made.delete()


def digests(folder: Path) -> Digests:
    """Return the digest of what each disk in a folder holds."""
    found = {}
    for path in sorted(folder.iterdir()):
        form = path.suffix.removeprefix(".")
        raw = path.with_suffix(".content")
        command = ["qemu-img", "convert", "-f", form, "-O", "raw", str(path), str(raw)]
        subprocess.run(command, check=True)
        with raw.open("rb") as file:
            found[path.stem] = hashlib.file_digest(file, "sha256").hexdigest()
        raw.unlink()
    return found


@pytest.mark.parametrize("form", ["raw", "qcow2", "vmdk"])
def test_out_to_a_folder(vm: vmctl.VM, original: Digests, tmp_path: Path, form: str) -> None:
    target = tmp_path / "out"
    vm.export(target, format=form)
    assert target.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in target.iterdir()) == [f"sda.{form}", f"sdb.{form}"]
    assert {path.stat().st_mode & 0o077 for path in target.iterdir()} == {0}
    assert digests(target) == original
    before = {path.name: path.stat().st_ino for path in target.iterdir()}
    with pytest.raises(vmctl.ConflictError, match="there is a file"):
        vm.export(target, format=form, replace=True)
    assert {path.name: path.stat().st_ino for path in target.iterdir()} == before


@pytest.mark.parametrize("form", ["ova", "bundle"])
def test_there_and_back(
    host: vmctl.Host, vm: vmctl.VM, original: Digests, tmp_path: Path, form: str
) -> None:
    vm.export(tmp_path / "out", format=form)
    copy = host.import_machine(tmp_path / "out", name="two-again")
    try:
        capacities = {
            disk.target: disk.capacity for disk in copy.info().disks if disk.device == "disk"
        }
        assert capacities == SIZES
        copy.export(tmp_path / "again", format="raw")
        assert digests(tmp_path / "again") == original
    finally:
        copy.delete()
