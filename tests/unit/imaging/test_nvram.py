"""UEFI's variables: taken when they are that, and whole."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from vmctl.errors import ImageError
from vmctl.imaging.nvram import check_nvram


def volume(length: int, signature: bytes = b"_FVH") -> bytes:
    return bytes(32) + struct.pack("<Q", length) + signature + b"\xff" * 84 + b"variables"


@pytest.mark.parametrize("padding", [0, 4096])
def test_variables_are_taken(tmp_path: Path, padding: int) -> None:
    path = tmp_path / "nvram"
    content = volume(0)
    path.write_bytes(volume(len(content)) + bytes(padding))
    check_nvram(path)


@pytest.mark.parametrize(
    "content",
    [b"x", bytes(4096), volume(0), volume(1 << 20), volume(64, b"_FVX"), b"QFI\xfb" + bytes(600)],
    ids=["short", "zeros", "length 0", "cut off", "other signature", "qcow2"],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nvram"
    path.write_bytes(content)
    with pytest.raises(ImageError):
        check_nvram(path)
