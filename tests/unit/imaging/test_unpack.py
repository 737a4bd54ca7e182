"""Unpacking, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from vmctl.errors import ImageError, NotFoundError, ResourceError
from vmctl.imaging.unpack import Bounds, compression_of, unpack
from vmctl.progress import Phase, Progress

NOISE = random.Random(1).randbytes(300_000)  # noqa: S311
BODY = NOISE + bytes(8 * 1024**2) + NOISE[:1234]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zstandard.compress,
}
KINDS = pytest.mark.parametrize("kind", PACKERS)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return tmp_path / "image"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "image.raw"


@pytest.fixture(autouse=True)
def _folder(target: Path) -> None:
    target.parent.mkdir()


@KINDS
def test_unpacked_with_holes(kind: str, packed: Path, target: Path) -> None:
    packed.write_bytes(PACKERS[kind](BODY))
    assert compression_of(packed) == kind
    reports: list[Progress] = []
    assert unpack(packed, target, phase=Phase("a", "image", reports.append)) == target
    assert target.read_bytes() == BODY
    assert target.stat().st_blocks * 512 < len(BODY) / 4
    assert [path.name for path in target.parent.iterdir()] == ["image.raw"]
    assert reports[-1].fraction == 1.0


@KINDS
def test_several_parts(kind: str, packed: Path, target: Path) -> None:
    pack = PACKERS[kind]
    packed.write_bytes(pack(NOISE) + pack(b"") + pack(BODY))
    assert unpack(packed, target).read_bytes() == NOISE + BODY


@KINDS
@pytest.mark.parametrize("damage", ["cut off", "garbage", "flipped"])
def test_damage_is_refused(kind: str, damage: str, packed: Path, target: Path) -> None:
    data = bytearray(PACKERS[kind](BODY))
    if damage == "cut off":
        del data[-5:]
    elif damage == "garbage":
        data += b"garbage"
    elif kind == "zst":  # its frames have no checksum by default
        data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(BODY))
        data[-1] ^= 1
    else:
        data[len(data) // 2] ^= 1
    packed.write_bytes(data)
    with pytest.raises(ImageError, match="is damaged"):
        unpack(packed, target)
    assert list(target.parent.iterdir()) == []


@KINDS
@pytest.mark.parametrize(
    ("max_size", "bounds"),
    [(1024**4, Bounds(ratio=20, free=1024**2)), (1024**2, Bounds())],
    ids=["ratio", "size"],
)
def test_a_bomb(kind: str, max_size: int, bounds: Bounds, packed: Path, target: Path) -> None:
    packed.write_bytes(PACKERS[kind](bytes(32 * 1024**2)))
    with pytest.raises(ImageError, match="unfolds to more than it may") as caught:
        unpack(packed, target, max_size=max_size, bounds=bounds)
    assert "compressed bytes of it have unfolded to" in caught.value.details
    assert list(target.parent.iterdir()) == []


def test_padding_of_xz(packed: Path, target: Path) -> None:
    packed.write_bytes(lzma.compress(NOISE) + bytes(8))
    assert unpack(packed, target).read_bytes() == NOISE
    packed.write_bytes(lzma.compress(NOISE) + bytes(7))
    with pytest.raises(ImageError, match="is damaged"):
        unpack(packed, target)


def test_no_room(packed: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed.write_bytes(gzip.compress(BODY))
    usage = shutil.disk_usage(packed.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ResourceError, match="no room to unpack"):
        unpack(packed, target)
    assert list(target.parent.iterdir()) == []


def test_what_a_killed_client_left_is_taken_over(packed: Path, target: Path) -> None:
    packed.write_bytes(gzip.compress(NOISE))
    target.with_name("image.raw.part").write_bytes(BODY)
    assert unpack(packed, target).read_bytes() == NOISE


def test_what_is_not_compressed(packed: Path, target: Path) -> None:
    packed.write_bytes(b"QFI\xfb")
    assert compression_of(packed) is None
    with pytest.raises(ImageError, match="is not compressed"):
        unpack(packed, target)
    with pytest.raises(NotFoundError, match="there is no file"):
        compression_of(target)
