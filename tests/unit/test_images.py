"""Images are looked at before anything opens them."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vmctl import images
from vmctl.errors import ImageError, NotFoundError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def header(
    *, version: int = 3, backing: int = 0, size: int = 1 << 20, incompatible: int = 0
) -> bytes:
    """Return the beginning of a qcow2 file."""
    fields = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 0, 16, size)
    return (fields.ljust(72, b"\0") + struct.pack(">Q", incompatible)).ljust(512, b"\0")


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "image.qcow2"
    path.write_bytes(content)
    return path


def test_a_real_image(tmp_path: Path) -> None:
    path = tmp_path / "real.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
    image = images.inspect(path)
    assert image.virtual_size == 8 << 20
    assert image.size == path.stat().st_size
    assert image.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert images.is_base(images.base_name(image))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a qcow2 image"),
        (b"QFI\xfb", "is not a qcow2 image"),
        (b"\0" * 4096, "is not a qcow2 image"),
        (header(version=4), "unknown version 4"),
        (header(backing=512), "names a backing file"),
        (header(version=2, backing=512), "names a backing file"),
        (header(incompatible=0b100), "keeps its data in another file"),
        (header(incompatible=1 << 40), "features that are not known"),
        (header(incompatible=0b10), "marked as corrupt"),
        (header(size=0), "claims a disk of 0 bytes"),
        (header(size=1 << 63), "claims a disk of"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        images.inspect(write(tmp_path, content))


def test_version_2_has_no_feature_bits(tmp_path: Path) -> None:
    assert images.inspect(write(tmp_path, header(version=2, incompatible=4))).virtual_size


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no image file"):
        images.inspect(tmp_path / "none")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="can't read the image"):
        images.inspect(tmp_path)


def test_a_digest_is_remembered_until_the_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, header())
    monkeypatch.setattr("vmctl.images.time.time_ns", lambda: path.stat().st_ctime_ns + 10**10)
    first = images.inspect(path).digest
    (entry,) = (cache / "vmctl" / "digests").iterdir()
    computed: list[int] = []
    real = images._digest

    def counted(*arguments: Any) -> str:
        computed.append(1)
        return real(*arguments)

    monkeypatch.setattr("vmctl.images._digest", counted)
    assert images.inspect(path).digest == first
    assert computed == []
    path.write_bytes(header() + b"more")
    os.utime(path, ns=(1, 1))
    assert images.inspect(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert computed == [1]
    entry.write_text("garbage")
    assert images.inspect(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    images.inspect(write(tmp_path, header()))
    assert not (cache / "vmctl" / "digests").exists()
