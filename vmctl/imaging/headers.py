"""What the headers of image formats say that is to be refused by its name.

Sources: for qcow2 https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst; for
VHD Microsoft's "Virtual Hard Disk Image Format Specification", 2006; for VMDK VMware's "Virtual
Disk Format 5.0"; for VDI the structures of QEMU's block/vdi.c.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from vmctl.errors import ImageError

__all__ = ["Backing", "Ends", "backing_of", "check", "check_volume", "is_fixed_vhd", "kind_of"]

# What a program that probes would take a file for by its first bytes.
_MAGIC = {
    "qcow2": b"QFI\xfb",
    "vmdk": b"KDMV",
    "vhdx": b"vhdxfile",
    "vhd": b"conectix",
    "qed": b"QED\0",
}
_QCOW2_V3_HEADER = 104
# A header extension; and as long as a name may be, by the specification.
_QCOW2_BACKING_FORMAT = 0xE2792ACA
_LONGEST_NAME = 1023
_VHD_COOKIE = b"conectix"
_VHD_FIXED, _VHD_DYNAMIC = 2, 3
_VDI_DYNAMIC, _VDI_STATIC = 1, 2
# Sectors; VMware's own are 20 long.
_VMDK_DESCRIPTOR = 1024
_VMDK_PARENT = re.compile(
    rb"parentFileNameHint|parentCID[ \t]*=[ \t]*(?!f{8}(?![0-9a-f]))", re.IGNORECASE
)
_VMDK_EXTENT = re.compile(r"(rw|rdonly|noaccess)\s", re.IGNORECASE)
_HINT_MERGE = "merge it with its parent where it was made: qemu-img convert -O qcow2 FILE NEW.qcow2"
_HINT_ANEW = "write it anew where it was made: qemu-img convert -O qcow2 FILE NEW.qcow2"


@dataclass(frozen=True)
class Ends:
    """The first bytes of a file, its last 512, and its size."""

    head: bytes
    tail: bytes
    size: int


@dataclass(frozen=True)
class Backing:
    """What a header says that lies underneath: a name, and its format; empty where not said."""

    name: str
    format: str


def check(path: Path, kind: str, ends: Ends) -> int | None:
    """Refuse what a header says; returns the virtual size where it was read here.

    Raises:
        ImageError: The image has a parent or other files, or features that nobody here knows.
    """
    match kind:
        case "qcow2":
            return _check_qcow2(path, ends.head)
        case "vhd":
            return _check_vhd(path, ends)
        case "vdi":
            _check_vdi(path, ends)
        case "vmdk":
            _check_vmdk(path, ends.head)
    return None


def kind_of(header: bytes) -> str:
    """Return what a program that probes would take a volume for, by its first bytes."""
    return next((kind for kind, magic in _MAGIC.items() if header.startswith(magic)), "raw")


def backing_of(path: Path, header: bytes) -> Backing | None:
    """Return what the header of a qcow2 image, seen by `check_volume`, names as underneath it.

    Args:
        path: What errors call it.
        header: Its first 64 KiB, or all of it.

    Raises:
        ImageError: The name is not where it can be read.
    """
    version, offset, length = struct.unpack(">IQI", header[4:20])
    if not offset:
        return None
    name = header[offset : offset + length]
    if not 0 < length <= _LONGEST_NAME or len(name) < length:
        raise ImageError(
            f"{str(path)!r} names a file underneath it, and where that name is can't be read",
            hint=_HINT_ANEW,
        )
    begin = struct.unpack(">I", header[100:104])[0] if version == 3 else 72
    form = ""
    while begin + 8 <= min(offset, len(header)):
        kind, size = struct.unpack(">II", header[begin : begin + 8])
        if not kind:
            break
        if kind == _QCOW2_BACKING_FORMAT:
            form = header[begin + 8 : begin + 8 + size].decode("utf-8", "replace")
        begin += 8 + (size + 7) // 8 * 8
    return Backing(name.decode("utf-8", "surrogateescape"), form)


def check_volume(name: Path, declared: str, header: bytes) -> None:
    """Refuse a volume by its first bytes; that it lies on another one is for others to judge.

    Args:
        name: What errors call it.
        declared: How it is said to be written: ``qcow2`` or ``raw``.
        header: Its first 64 KiB, or all of it.

    Raises:
        ImageError: It is not what it is said to be, keeps its data in another file, or has features
            that nobody here knows.
    """
    found = kind_of(header)
    if found != declared:
        raise ImageError(
            f"{str(name)!r} is declared as {declared}, and what is in it is {found}",
            hint=f"if it is to be trusted, write format: {found}"
            if found in {"qcow2", "raw"}
            else "import it as an image, which converts it",
        )
    if found == "qcow2":
        _check_qcow2(name, header, overlays=True)


def is_fixed_vhd(ends: Ends) -> bool:
    """Return whether it is a VHD without a header: those have a footer only."""
    return ends.tail.startswith(_VHD_COOKIE) and not ends.head.startswith(_VHD_COOKIE)


def _check_qcow2(path: Path, header: bytes, *, overlays: bool = False) -> int:
    if len(header) < 72:
        raise _cut_off(path, "qcow2")
    version, backing = struct.unpack(">IQ", header[4:16])
    (virtual_size,) = struct.unpack(">Q", header[24:32])
    if version not in {2, 3}:
        raise ImageError(
            f"{str(path)!r} is a qcow2 image of the unknown version {version}",
            hint="qcow2 has the versions 2 and 3: make it anew with a qemu-img that is not newer",
        )
    if backing and not overlays:
        raise ImageError(
            f"{str(path)!r} is an overlay: its header names a backing file",
            details=f"the backing file: {_backing_name(header, backing)}",
            hint=_HINT_MERGE.replace("parent", "backing file"),
        )
    if version == 3 and len(header) < _QCOW2_V3_HEADER:
        raise _cut_off(path, "qcow2")
    incompatible = struct.unpack(">Q", header[72:80])[0] if version == 3 else 0
    if incompatible & 0b100:
        raise ImageError(
            f"{str(path)!r} keeps its data in another file, which its header names",
            hint="put it into one file: qemu-img convert -O qcow2 FILE NEW.qcow2",
        )
    if incompatible & ~0b11111:
        raise ImageError(
            f"{str(path)!r} has qcow2 features that are not known here",
            details=f"the incompatible features are {incompatible:#x}",
            hint=_HINT_ANEW,
        )
    if incompatible & 0b10:
        raise ImageError(f"{str(path)!r} is marked as corrupt", hint="qemu-img check FILE")
    return int(virtual_size)


def _backing_name(header: bytes, offset: int) -> str:
    (length,) = struct.unpack(">I", header[16:20])
    name = header[offset : offset + min(length, 1023)]
    return repr(name.decode("utf-8", "replace")) if name else "not readable"


def _check_vhd(path: Path, ends: Ends) -> int:
    footer = ends.tail if is_fixed_vhd(ends) else ends.head[:512]
    if len(footer) < 512:
        raise _cut_off(path, "VHD")
    (virtual_size,) = struct.unpack(">Q", footer[48:56])
    (kind,) = struct.unpack(">I", footer[60:64])
    if kind not in {_VHD_FIXED, _VHD_DYNAMIC}:
        raise ImageError(
            f"{str(path)!r} is a VHD of the type {kind}, not a whole disk of its own",
            hint=_HINT_MERGE,
        )
    if kind == _VHD_FIXED and virtual_size > ends.size:
        raise _cut_off(path, "VHD")
    return int(virtual_size)


def _check_vdi(path: Path, ends: Ends) -> None:
    header = ends.head
    if len(header) < 512:
        raise _cut_off(path, "VDI")
    (kind,) = struct.unpack("<I", header[0x4C:0x50])
    # The UUIDs of the image it is linked to, and of its parent.
    if kind not in {_VDI_DYNAMIC, _VDI_STATIC} or any(header[0x1A8:0x1C8]):
        raise ImageError(
            f"{str(path)!r} is a VDI of the type {kind} or with a parent, "
            "not a whole disk of its own",
            hint=_HINT_MERGE,
        )
    # qemu-img reads what is missing as zeros, and finds nothing wrong with it.
    (data,) = struct.unpack("<I", header[0x158:0x15C])
    (block,) = struct.unpack("<I", header[0x178:0x17C])
    (allocated,) = struct.unpack("<I", header[0x184:0x188])
    if ends.size < data + block * allocated:
        raise _cut_off(path, "VDI")


def _check_vmdk(path: Path, head: bytes) -> None:
    """Refuse a parent and other files than this one, which oslo.utils sees only in part."""
    if not head.startswith(b"KDMV") or len(head) < 512:
        raise ImageError(
            f"{str(path)!r} is a VMDK that only describes other files",
            hint=_HINT_ANEW,
        )
    # In sectors: where the descriptor begins, and how long it is. QEMU looks for a parent in 20
    # sectors after the header, whatever the header says, so that is looked at as well.
    begin, length = struct.unpack("<QQ", head[28:44])
    for piece in (head[512 : 512 * 21], head[begin * 512 : (begin + length) * 512]):
        if _VMDK_PARENT.search(piece):
            raise ImageError(
                f"{str(path)!r} is a VMDK with a parent, not a whole disk of its own",
                details="its descriptor names another file",
                hint=_HINT_MERGE,
            )
    if begin != 1 or not 0 < length <= _VMDK_DESCRIPTOR:
        raise ImageError(
            f"{str(path)!r} is a VMDK whose descriptor is not where it belongs", hint=_HINT_ANEW
        )
    text = head[512 : 512 + length * 512].split(b"\0")[0].decode("latin-1")
    lines = [line.strip() for line in text.splitlines()]
    fields = {
        name.strip().lower(): value.strip().strip('"').lower()
        for name, equals, value in (line.partition("=") for line in lines)
        if equals
    }
    kind = fields.get("createtype", "")
    if kind not in {"monolithicsparse", "streamoptimized"}:
        raise ImageError(
            f"{str(path)!r} is a VMDK that keeps its data in other files: {kind[:40]!r}",
            hint=_HINT_ANEW,
        )
    extents = [line for line in lines if _VMDK_EXTENT.match(line)]
    if len(extents) != 1 or "/" in extents[0] or " SPARSE " not in extents[0].upper():
        raise ImageError(
            f"{str(path)!r} is a VMDK with extents that are other files",
            details="\n".join(extents),
            hint=_HINT_ANEW,
        )


def _cut_off(path: Path, kind: str) -> ImageError:
    return ImageError(
        f"{str(path)!r} is a {kind} image that was cut off",
        hint="get it again, and compare its checksum",
    )
