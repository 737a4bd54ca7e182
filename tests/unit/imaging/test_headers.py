"""The first bytes of a volume, against what it is said to be."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from vmctl.errors import ImageError
from vmctl.imaging.headers import Backing, backing_of, check_volume

NAME = Path("pool/volume")


def qcow2(*, backing: int = 0, incompatible: int = 0, version: int = 3) -> bytes:
    head = b"QFI\xfb" + struct.pack(">IQIIQ", version, backing, 9, 16, 1 << 20)
    return (head.ljust(72, b"\0") + struct.pack(">Q", incompatible)).ljust(4096, b"\0")


@pytest.mark.parametrize(
    ("declared", "header"),
    [
        ("raw", b""),
        ("raw", b"\0" * 512),
        ("qcow2", qcow2()),
        # What it lies on is looked at by itself.
        ("qcow2", qcow2(backing=200)),
        ("qcow2", qcow2(version=2)),
    ],
)
def test_what_it_is_said_to_be(declared: str, header: bytes) -> None:
    check_volume(NAME, declared, header)


@pytest.mark.parametrize(
    ("declared", "header", "words"),
    [
        ("qcow2", b"\0" * 512, "declared as qcow2, and what is in it is raw"),
        ("raw", qcow2(), "declared as raw, and what is in it is qcow2"),
        ("raw", b"KDMV" + b"\0" * 512, "what is in it is vmdk"),
        ("qcow2", b"vhdxfile" + b"\0" * 512, "what is in it is vhdx"),
        ("qcow2", qcow2(incompatible=0b100), "keeps its data in another file"),
        ("qcow2", qcow2(incompatible=1 << 20), "features that are not known"),
        ("qcow2", qcow2(version=9), "unknown version 9"),
        ("qcow2", qcow2()[:80], "cut off"),
    ],
)
def test_what_is_refused(declared: str, header: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        check_volume(NAME, declared, header)


def overlay(name: bytes, form: bytes, *, version: int = 3) -> bytes:
    """Return a header with a backing file, its format in an extension."""
    length = 104 if version == 3 else 72
    extension = struct.pack(">II", 0xE2792ACA, len(form)) + form.ljust((len(form) + 7) // 8 * 8)
    begin = length + len(extension) + 8
    head = b"QFI\xfb" + struct.pack(">IQI", version, begin, len(name))
    head = head.ljust(100, b"\0") + struct.pack(">I", 104) if version == 3 else head
    return head.ljust(length, b"\0") + extension + bytes(8) + name


def test_what_lies_underneath() -> None:
    assert backing_of(NAME, qcow2()) is None
    for version in (2, 3):
        found = backing_of(NAME, overlay(b"/b.img", b"raw", version=version))
        assert found == Backing("/b.img", "raw")
    assert backing_of(NAME, overlay(b"b", b"")) == Backing("b", "")


def test_a_name_that_is_not_there() -> None:
    for header in (overlay(b"/b.img", b"raw")[:-1], overlay(b"b" * 1024, b"raw")):
        with pytest.raises(ImageError, match="where that name is can't be read"):
            backing_of(NAME, header)
