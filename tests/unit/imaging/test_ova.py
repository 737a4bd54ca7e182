"""OVAs: what is taken out of good ones, and how evil ones are refused."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.evil_ovas import (
    CONTENT,
    DESCRIPTOR,
    DISK,
    EVIL,
    GOOD,
    OVF,
    Entry,
    manifest,
    pack,
    regular,
    special,
)
from vmctl.errors import ImageError, NotFoundError
from vmctl.imaging.ova import Package, read_package
from vmctl.imaging.ovf_writing import write_ova
from vmctl.progress import Phase


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def build(*entries: Entry, style: int = tarfile.USTAR_FORMAT) -> Path:
        path = tmp_path / "in" / "vm.ova"
        path.parent.mkdir(exist_ok=True)
        return pack(path, *entries, style=style)

    return build


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder that nothing is written to but what was asked for, nor is anything beside it."""
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    before = sorted(tmp_path.iterdir())
    yield folder
    after = sorted(path for path in tmp_path.iterdir() if path.name != "in")
    assert after == [path for path in before if path.name != "in"]
    assert {path.name for path in folder.iterdir()} <= {"taken"}
    assert list(folder.parent.iterdir()) == [folder]


def taken(package: Package, out: Path) -> bytes:
    package.take(package.appliance.disks[0], out / "taken")
    return (out / "taken").read_bytes()


@pytest.mark.parametrize("kind", ["SHA1", "SHA256", "SHA512"])
@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_good_one(make: Callable[..., Path], out: Path, kind: str, style: int) -> None:
    package = read_package(make(OVF, manifest(GOOD, kind), DISK, style=style))
    assert package.appliance.name == "db01"
    assert package.warnings == ()
    assert taken(package, out) == CONTENT


def test_without_a_manifest_it_warns(make: Callable[..., Path], out: Path) -> None:
    package = read_package(make(OVF, DISK))
    assert "no manifest" in package.warnings[0]
    assert taken(package, out) == CONTENT


def test_a_folder(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for entry, content in (OVF, manifest(GOOD), DISK):
        (folder / entry.name).write_bytes(content)
    package = read_package(folder / "vm.ovf")
    assert taken(package, out) == CONTENT
    # A link in the place of a disk would lead to any file of whoever imports it.
    (folder / "disk.vmdk").unlink()
    (folder / "disk.vmdk").symlink_to("/etc/passwd")
    with pytest.raises(ImageError, match=r"lacks the file 'disk\.vmdk'"):
        read_package(folder / "vm.ovf")


@pytest.mark.parametrize("case", EVIL)
def test_evil_ones_are_refused(make: Callable[..., Path], out: Path, case: str) -> None:
    entries, message = EVIL[case]
    with pytest.raises(ImageError, match=re.escape(message)) as caught:
        read_package(make(*entries))
    assert caught.value.hint


def test_a_disk_that_the_manifest_does_not_match(make: Callable[..., Path], out: Path) -> None:
    package = read_package(make(OVF, manifest(GOOD), regular("disk.vmdk", CONTENT[::-1])))
    with pytest.raises(ImageError, match=r"another 'disk\.vmdk' than its manifest says"):
        taken(package, out)


def test_a_size_that_is_not_the_stated_one(make: Callable[..., Path]) -> None:
    text = DESCRIPTOR.replace('href="disk.vmdk"', 'href="disk.vmdk" ovf:size="7"')
    with pytest.raises(ImageError, match=r"has 3000 bytes of 'disk\.vmdk', and says 7"):
        read_package(make(regular("vm.ovf", text.encode()), DISK))


def test_one_that_was_cut_off(make: Callable[..., Path]) -> None:
    path = make(OVF, DISK)
    with path.open("r+b") as file:
        file.truncate(512 + len(DESCRIPTOR) // 512 * 512 + 512 + 512 + 1000)
    with pytest.raises(ImageError, match="cut off inside|lacks the file"):
        read_package(path)


def test_sparse_members_are_refused(make: Callable[..., Path]) -> None:
    old = special("disk.vmdk", tarfile.GNUTYPE_SPARSE)
    new = regular("disk.vmdk", b"0\n")
    new[0].pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
        "GNU.sparse.name": "disk.vmdk", "GNU.sparse.realsize": str(1 << 60),
    }  # fmt: skip
    for entry, style in ((old, tarfile.GNU_FORMAT), (new, tarfile.PAX_FORMAT)):
        with pytest.raises(ImageError, match="sparse|damaged"):
            read_package(make(OVF, entry, style=style))


def test_a_pax_header_can_not_rename_a_member(make: Callable[..., Path]) -> None:
    entry, content = regular("x", b"x")
    entry.pax_headers = {"path": "../../evil"}
    with pytest.raises(ImageError, match="outside its own folder"):
        read_package(make(OVF, DISK, (entry, content), style=tarfile.PAX_FORMAT))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_that_would_fill_the_memory(make: Callable[..., Path], kind: bytes) -> None:
    path = make(OVF, DISK)
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, 1 << 33
    with path.open("r+b") as file:
        start = file.read()
        file.seek(0)
        file.write(entry.tobuf(tarfile.GNU_FORMAT) + start)
        file.truncate(1 << 34)
    with pytest.raises(ImageError, match="no tar file, or a damaged one"):
        read_package(path)


def packed(content: bytes, *, capacity: int) -> tuple[Entry, Entry]:
    text = DESCRIPTOR.replace('href="disk.vmdk"', 'href="disk.vmdk" ovf:compression="gzip"')
    text = text.replace('capacity="16" ovf:capacityAllocationUnits="byte * 2^30"',
                        f'capacity="{capacity}"')  # fmt: skip
    return regular("vm.ovf", text.encode()), regular("disk.vmdk", content)


def test_a_compressed_disk(make: Callable[..., Path], out: Path) -> None:
    assert taken(read_package(make(*packed(gzip.compress(CONTENT), capacity=4096))), out) == CONTENT


@pytest.mark.parametrize("cut", [slice(None, 1000), slice(500, None)])
def test_a_damaged_compressed_disk(make: Callable[..., Path], out: Path, cut: slice) -> None:
    package = read_package(make(*packed(gzip.compress(CONTENT)[cut], capacity=4096)))
    with pytest.raises(ImageError, match="damaged|no gzip file"):
        taken(package, out)


def test_a_gzip_bomb(make: Callable[..., Path], out: Path) -> None:
    # 200 MiB of zeros in some 200 KiB, for a disk of 4 KiB.
    package = read_package(make(*packed(gzip.compress(bytes(200 << 20)), capacity=4096)))
    with pytest.raises(ImageError, match="more than its disk can hold"):
        taken(package, out)
    assert (out / "taken").stat().st_size <= 65 << 20


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_package(tmp_path / "none.ova")
    with pytest.raises(ImageError, match="is no regular file"):
        read_package(tmp_path)
    other = tmp_path / "other.ova"
    other.write_bytes(os.urandom(2000))
    with pytest.raises(ImageError, match="no tar file"):
        read_package(other)


def test_one_that_was_written_is_read_again(tmp_path: Path, out: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(CONTENT)
    path = tmp_path / "in.ova"
    phase = Phase("m", "export", None)
    with path.open("wb") as file:
        write_ova(file, "vm", DESCRIPTOR.encode(), [("disk.vmdk", disk)], phase)
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["vm.ovf", "vm.mf", "disk.vmdk"]
    package = read_package(path)
    assert package.warnings == ()
    assert taken(package, out) == CONTENT
    path.unlink()
    disk.unlink()
