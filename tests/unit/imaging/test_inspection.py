"""Image files are looked at before anything opens them."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vmctl.errors import ImageError, NotFoundError
from vmctl.imaging import digests, inspection
from vmctl.imaging.inspection import FORMATS, Image, inspect
from vmctl.render.iso import build_iso


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def qcow2(
    *, version: int = 3, backing: int = 0, size: int = 1 << 20, incompatible: int = 0
) -> bytes:
    """Return the beginning of a qcow2 file."""
    fields = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 0, 16, size)
    return (fields.ljust(72, b"\0") + struct.pack(">Q", incompatible)).ljust(1024, b"\0")


def write(tmp_path: Path, content: bytes, name: str = "image") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def make(path: Path, kind: str, *options: str, size: str = "8M") -> Path:
    driver = {"vhd": "vpc"}.get(kind, kind)  # qemu-img's own word
    command = ["qemu-img", "create", "-q", "-f", driver, *options, str(path), size]
    subprocess.run(command, check=True)
    return path


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "raw"])
def test_real_images_are_recognised(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "real", kind)
    found = inspect(path)
    assert found == Image(
        path=path,
        format=kind,
        size=path.stat().st_size,
        virtual_size=found.virtual_size,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    # A VHD's size is rounded up to whole cylinders.
    assert 8 << 20 <= found.virtual_size < 9 << 20
    assert inspect(path, format=kind) == found


@pytest.mark.parametrize(
    ("kind", "option"),
    [("vmdk", "subformat=streamOptimized"), ("vhd", "subformat=fixed"), ("vdi", "static=on")],
)
def test_other_kinds_of_a_format(tmp_path: Path, kind: str, option: str) -> None:
    path = make(tmp_path / "real", kind, "-o", option)
    if "stream" in option:
        # An empty one has no footer yet: what is exported has data, and is written as a stream.
        raw = write(tmp_path, b"data" * 4096, "raw")
        subprocess.run(
            ["qemu-img", "convert", "-f", "raw", "-O", kind, "-o", option, str(raw), str(path)],
            check=True,
        )
    assert inspect(path).format == kind


def test_raw_bytes_must_be_declared(tmp_path: Path) -> None:
    path = write(tmp_path, b"\0" * 4096)
    with pytest.raises(ImageError, match="no image of a known format") as caught:
        inspect(path)
    assert "format raw" in caught.value.hint
    assert inspect(path, format="raw").virtual_size == 4096
    with pytest.raises(ImageError, match="no image of a known format"):
        inspect(path)


PARTITIONS = (
    b"\0" * 446 + struct.pack("<B3BB3BII", 0x80, 0, 2, 0, 0x83, 0, 3, 0, 2048, 4096)
).ljust(510, b"\0") + b"\x55\xaa"


def test_a_raw_disk_with_partitions_is_recognised(tmp_path: Path) -> None:
    assert inspect(write(tmp_path, PARTITIONS + b"\0" * 3584)).format == "raw"


@pytest.mark.parametrize("hybrid", [False, True])
def test_an_iso_is_no_disk_unless_it_is_said_to_be(tmp_path: Path, hybrid: bool) -> None:
    content = build_iso({"meta-data": b"{}"})
    # What distributions publish has a partition table as well, to boot from a stick.
    path = write(tmp_path, PARTITIONS + content[512:] if hybrid else content)
    with pytest.raises(ImageError, match="no image of a known format") as caught:
        inspect(path)
    assert "or an ISO, say so: format raw" in caught.value.hint
    assert inspect(path, format="raw").virtual_size == len(content)
    path.write_bytes(qcow2() + content[1024:])
    with pytest.raises(ImageError, match="several things at once: iso, qcow2"):
        inspect(path, format="raw")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "claims a disk of 0 bytes"),
        (qcow2(version=4), "unknown version 4"),
        (qcow2(backing=512), "names a backing file"),
        (qcow2(version=2, backing=512), "names a backing file"),
        (qcow2(incompatible=0b100), "keeps its data in another file"),
        (qcow2(incompatible=1 << 40), "features that are not known"),
        (qcow2(incompatible=0b10), "marked as corrupt"),
        (qcow2(size=0), "claims a disk of 0 bytes"),
        (qcow2(size=1 << 63), "claims a disk of"),
        (qcow2()[:64], "no image of a known format"),
        (b"QED\0".ljust(4096, b"\0"), "is a qed image, which is not taken in"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        inspect(write(tmp_path, content))
    assert caught.value.hint


def test_8_eib_in_1_kib(tmp_path: Path) -> None:
    path = write(tmp_path, qcow2(size=(1 << 63) - 512))
    with pytest.raises(ImageError, match="claims a disk of 9223372036854775296 bytes"):
        inspect(path)


@pytest.mark.parametrize("kind", ["qcow2", "vmdk"])
def test_a_backing_file_of_the_host(tmp_path: Path, kind: str) -> None:
    base = make(tmp_path / "base", kind)
    over = make(tmp_path / "over", kind, "-b", str(base), "-F", kind)
    with pytest.raises(ImageError) as caught:
        inspect(over)
    assert caught.value.hint
    if kind == "qcow2":
        assert str(base) in caught.value.details


def test_a_data_file_of_the_host(tmp_path: Path) -> None:
    path = make(tmp_path / "q", "qcow2", "-o", f"data_file={tmp_path}/secret")
    with pytest.raises(ImageError, match="keeps its data in another file"):
        inspect(path)


@pytest.mark.parametrize(
    "subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]
)
def test_a_vmdk_of_several_files(tmp_path: Path, subformat: str) -> None:
    path = make(tmp_path / "v.vmdk", "vmdk", "-o", f"subformat={subformat}")
    with pytest.raises(ImageError):
        inspect(path)
    with pytest.raises(ImageError):
        inspect(path, format="vmdk")


def test_a_vmdk_with_foreign_extents(tmp_path: Path) -> None:
    content = bytearray(make(tmp_path / "v.vmdk", "vmdk").read_bytes())
    at = content.index(b"RW ")
    line = b'RW 16384 SPARSE "/etc/shadow"\n'
    content[at : at + len(line)] = line
    with pytest.raises(ImageError, match="extents that are other files") as caught:
        inspect(write(tmp_path, bytes(content)))
    assert "/etc/shadow" in caught.value.details


@pytest.mark.parametrize("where", [512, 1024, 5 * 512, 20 * 512 + 400])
def test_a_vmdk_that_hides_its_parent(tmp_path: Path, where: int) -> None:
    content = bytearray(make(tmp_path / "v.vmdk", "vmdk").read_bytes())
    line = b'\nparentCID=12345678\nparentFileNameHint="/etc/shadow"\n'
    content[28:44] = struct.pack("<QQ", 1, 1)
    content[where : where + len(line)] = line
    with pytest.raises(ImageError, match="with a parent"):
        inspect(write(tmp_path, bytes(content)))


def test_a_vmdk_whose_descriptor_is_elsewhere(tmp_path: Path) -> None:
    content = bytearray(make(tmp_path / "v.vmdk", "vmdk").read_bytes())
    content[28:36] = struct.pack("<Q", 40)
    with pytest.raises(ImageError):
        inspect(write(tmp_path, bytes(content)))


@pytest.mark.parametrize("kind", ["qcow2", "vmdk"])
def test_an_image_with_the_footer_of_another(tmp_path: Path, kind: str) -> None:
    footer = make(tmp_path / "vhd", "vpc", "-o", "subformat=fixed").read_bytes()[-512:]
    content = make(tmp_path / "x", kind).read_bytes()
    with pytest.raises(ImageError, match="several things at once"):
        inspect(write(tmp_path, content + footer))


@pytest.mark.parametrize(
    ("kind", "at", "value"),
    [("vdi", 0x4C, struct.pack("<I", 4)), ("vdi", 0x1B8, b"\1"), ("vpc", 60, b"\0\0\0\4")],
)
def test_a_disk_that_has_a_parent(tmp_path: Path, kind: str, at: int, value: bytes) -> None:
    content = bytearray(make(tmp_path / "x", kind).read_bytes())
    content[at : at + len(value)] = value
    with pytest.raises(ImageError, match="not a whole disk of its own"):
        inspect(write(tmp_path, bytes(content)))


@pytest.mark.parametrize(
    ("content", "declared", "said"),
    [
        (b"\0" * 4096, "qcow2", "declared as qcow2, and what is in it is raw"),
        (qcow2(), "raw", "declared as raw, and what is in it is qcow2"),
        (qcow2(), "vmdk", "declared as vmdk, and what is in it is qcow2"),
    ],
)
def test_another_format_than_declared(
    tmp_path: Path, content: bytes, declared: str, said: str
) -> None:
    with pytest.raises(ImageError, match=said):
        inspect(write(tmp_path, content), format=declared)


def test_a_polyglot(tmp_path: Path) -> None:
    content = bytearray(qcow2().ljust(65536, b"\0"))
    content[446 : 446 + 16] = struct.pack("<B3BB3BII", 0x80, 0, 2, 0, 0x83, 0, 3, 0, 2048, 4096)
    content[510:512] = b"\x55\xaa"
    with pytest.raises(ImageError, match="several things at once: gpt, qcow2"):
        inspect(write(tmp_path, bytes(content)))


def test_a_format_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="'qed' is no image format"):
        inspect(write(tmp_path, qcow2()), format="qed")


def test_version_2_has_no_feature_bits(tmp_path: Path) -> None:
    assert inspect(write(tmp_path, qcow2(version=2, incompatible=4) + bytes(512))).virtual_size


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no image file"):
        inspect(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ImageError, match="is no regular file"):
            inspect(path)


def later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on to a time at which the file was not written just now."""
    moment = path.stat().st_ctime_ns + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: moment)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """How often a file was read."""
    found: list[Path] = []
    real: Callable[..., digests.Seen] = inspection._read

    def counted(file: Path, *arguments: object) -> digests.Seen:
        found.append(file)
        return real(file, *arguments)

    monkeypatch.setattr(inspection, "_read", counted)
    return found


def test_what_was_found_is_remembered_until_the_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, readings: list[Path]
) -> None:
    path = write(tmp_path, qcow2())
    later(path, monkeypatch)
    first = inspect(path)
    (entry,) = (cache / "vmctl" / "digests").iterdir()
    assert inspect(path) == first
    assert len(readings) == 1
    path.write_bytes(qcow2() + b"more")
    os.utime(path, ns=(1, 1))
    later(path, monkeypatch)
    assert inspect(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(readings) == 2
    for garbage in ("garbage", "[]", '{"version": 3}', '{"version": 3, "stamp": 1, "seen": {}}'):
        entry.write_text(garbage)
        assert inspect(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_declaration_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: list[Path]
) -> None:
    path = write(tmp_path, b"\0" * 4096)
    later(path, monkeypatch)
    assert inspect(path, format="raw").format == "raw"
    with pytest.raises(ImageError, match="no image of a known format"):
        inspect(path)
    assert len(readings) == 1


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    inspect(write(tmp_path, qcow2()))
    assert not (cache / "vmctl" / "digests").exists()
