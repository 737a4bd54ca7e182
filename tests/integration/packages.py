"""Packages as VirtualBox and VMware write them: descriptor, manifest, and disks as streams."""

from __future__ import annotations

import hashlib
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

_SECTOR = 512
_GRAIN = 128  # sectors
_PER_TABLE = 512
_AT_END = (1 << 64) - 1
_TABLE, _DIRECTORY, _FOOTER, _END = 1, 2, 3, 0
_DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=7d1a3c6e
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "{name}"

# The disk Data Base
#DDB
ddb.virtualHWVersion = "4"
ddb.adapterType="lsilogic"
"""


def write_stream(raw: Path, target: Path) -> None:
    """Write a disk as a stream-optimized VMDK whose tables are at its end, as a stream's must be.

    Source: VMware's "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents".
    qemu-img writes one with the tables at its beginning, as nobody else does.
    """
    sectors = raw.stat().st_size // _SECTOR
    assert sectors % _GRAIN == 0
    text = _DESCRIPTOR.format(sectors=sectors, name=target.name).encode().ljust(20 * _SECTOR, b"\0")
    with raw.open("rb") as source, target.open("xb") as out:
        out.write((_header(sectors, _AT_END) + text).ljust(_GRAIN * _SECTOR, b"\0"))
        tables: list[int] = []
        for first in range(0, sectors, _GRAIN * _PER_TABLE):
            table = [0] * _PER_TABLE
            for number in range(min(_PER_TABLE, (sectors - first) // _GRAIN)):
                piece = source.read(_GRAIN * _SECTOR)
                if piece.count(0) != len(piece):
                    table[number] = out.tell() // _SECTOR
                    packed = zlib.compress(piece, 1)
                    place = first + number * _GRAIN
                    out.write(_padded(struct.pack("<QI", place, len(packed)) + packed))
            tables.append(0)
            if any(table):
                out.write(_marker(_PER_TABLE * 4 // _SECTOR, _TABLE))
                tables[-1] = out.tell() // _SECTOR
                out.write(struct.pack(f"<{_PER_TABLE}I", *table))
        directory = _padded(struct.pack(f"<{len(tables)}I", *tables))
        out.write(_marker(len(directory) // _SECTOR, _DIRECTORY))
        at = out.tell() // _SECTOR
        out.write(directory + _marker(1, _FOOTER) + _header(sectors, at) + _marker(0, _END))


def _header(sectors: int, directory: int) -> bytes:
    packed = struct.pack(
        "<4sIIQQQQIQQQ?4sH", b"KDMV", 3, 0x30001, sectors, _GRAIN, 1, 20, _PER_TABLE, 0, directory,
        _GRAIN, False, b"\n \r\n", 1,
    )  # fmt: skip
    return _padded(packed)


def _marker(sectors: int, kind: int) -> bytes:
    return _padded(struct.pack("<QII", sectors, 0, kind))


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // _SECTOR) * _SECTOR, b"\0")


def filled_in(sample: Path, values: Mapping[str, str]) -> str:
    """Return a descriptor with other values; each of the old ones must be there."""
    text = sample.read_text(encoding="utf-8")
    for old, new in values.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def write_manifest(descriptor: Path, files: list[Path], kind: str, style: str) -> Path:
    """Write the digests of the files beside a descriptor."""
    lines = []
    for path in (descriptor, *files):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, kind).hexdigest()
        lines.append(style.format(kind=kind.upper(), name=path.name, digest=digest))
    target = descriptor.with_suffix(".mf")
    target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return target


def pack(target: Path, files: list[Path]) -> None:
    """Make an OVA of files, in their order, and remove them."""
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in files:
            tar.add(path, path.name)
            path.unlink()
