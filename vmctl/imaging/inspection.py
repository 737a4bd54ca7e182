"""Images are looked at before QEMU or qemu-img opens them, by code that follows nothing in them.

What a format may hide is described in ``docs/explanation/untrusted-images.md``. The headers are
read by oslo.utils, which OpenStack keeps for just this; what it does not look at is looked at here.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO, cast

from vmctl.errors import ImageError
from vmctl.imaging import digests, headers
from vmctl.imaging.digests import Seen
from vmctl.imaging.reading import opened, reading
from vmctl.progress import Phase

if TYPE_CHECKING:
    from oslo_utils.imageutils.format_inspector import FileInspector

    Found = dict[str, FileInspector | None]

__all__ = ["FORMATS", "Image", "inspect"]

FORMATS = ("qcow2", "raw", "vmdk", "vdi", "vhd", "vhdx")
"""The formats that are taken in, by the names that people call them."""

_CHUNK = 1024 * 1024
# More than any disk that a guest here could have; qemu-img itself stops at 8 EiB.
_MAX_VIRTUAL_SIZE = 1 << 50
_SECTOR = 512
# qemu-img's name for what everybody else, oslo.utils included, calls otherwise.
_OTHER_NAMES = {"vpc": "vhd"}
# What a raw disk may begin with: a partition table, a file system for CDs, an encrypted volume.
_RAW_CONTENT = {"raw", "gpt", "iso", "luks"}
# What says nothing of a disk: any bytes at all, and discs, though they may have partitions as well.
_NOT_RECOGNISED = ({"raw"}, {"iso"}, {"iso", "gpt"})
_HINT_DAMAGED = "get it again, and compare its checksum"
_HINT_ONE_FILE = "put it into one file where it was made: qemu-img convert -O qcow2 FILE NEW.qcow2"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A file that was found fit to be opened by qemu-img or QEMU.

    Attributes:
        path: Where it lies, on the client.
        format: Its format, one of `FORMATS`.
        size: Bytes of the file.
        virtual_size: Bytes a guest sees.
        digest: SHA-256 of the file, in hexadecimal.
    """

    path: Path
    format: str
    size: int
    virtual_size: int
    digest: str


def inspect(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - the field's own word
    phase: Phase | None = None,
) -> Image:
    """Look at an image file, all of it, without any tool that would follow what it says.

    Args:
        path: A local file.
        format: What it is declared to be, one of `FORMATS`; None: what it is found to be. A raw
            disk without a partition table must be declared, for anything at all could be one, and
            so must an ISO, which is a disc for a CD-ROM drive.
        phase: Told how far the reading is.

    Raises:
        NotFoundError: There is no such file.
        ImageError: It can't be read, is not what it is declared to be, or is not safe to be opened.
    """
    file = Path(path).expanduser()
    declared = None if format is None else _OTHER_NAMES.get(format, format)
    if declared is not None and declared not in FORMATS:
        raise ImageError(
            f"{declared!r} is no image format that is taken in",
            hint=f"those are: {', '.join(FORMATS)}",
        )
    with opened(file, "image file") as handle:
        status = os.fstat(handle.fileno())
        seen = digests.recall(file, status)
        if seen is None:
            with reading(file, "image file"):
                seen = _read(file, handle, status.st_size, phase)
            digests.remember(file, status, seen)
    _refuse_other_format(file, seen, declared)
    return Image(
        path=file,
        format=seen.format,
        size=status.st_size,
        virtual_size=seen.virtual_size,
        digest=seen.digest,
    )


def _refuse_other_format(file: Path, seen: Seen, declared: str | None) -> None:
    if declared is not None and declared != seen.format:
        raise ImageError(
            f"{str(file)!r} is declared as {declared}, and what is in it is {seen.format}",
            hint=f"if it is to be trusted, declare it as {seen.format}",
        )
    if declared is None and not seen.recognised:
        raise ImageError(
            f"{str(file)!r} is no image of a known format",
            hint="if these are the raw bytes of a disk, or an ISO, say so: format raw; "
            f"known are {', '.join(FORMATS)}",
        )


def _read(file: Path, handle: BinaryIO, size: int, phase: Phase | None) -> Seen:
    """Read a file once, for its digest and for what is in it: so both are of the same bytes."""
    # Few calls come here, and all that it imports takes its time.
    from oslo_utils.imageutils.format_inspector import InspectWrapper  # noqa: PLC0415

    # Without a close(): the file is closed by whoever opened it.
    wrapper = InspectWrapper(cast("BinaryIO", SimpleNamespace(read=handle.read)))
    sha256 = hashlib.sha256()
    head, tail, done = b"", b"", 0
    while piece := wrapper.read(_CHUNK):
        sha256.update(piece)
        head = head or piece
        tail = (tail + piece)[-_SECTOR:]
        done += len(piece)
        if phase is not None:
            phase.update("looking at it", done / max(size, 1))
    wrapper.close()
    inspectors: Found = {inspector.NAME: inspector for inspector in wrapper.formats or ()}
    kind, virtual_size = _judge(file, inspectors, headers.Ends(head, tail, done))
    if not 0 < virtual_size <= _MAX_VIRTUAL_SIZE:
        raise ImageError(
            f"{str(file)!r} claims a disk of {virtual_size} bytes",
            hint="a disk has from 1 byte to 1 PiB: see what made the image",
        )
    return Seen(
        digest=sha256.hexdigest(),
        format=kind,
        virtual_size=virtual_size,
        recognised=set(inspectors) not in _NOT_RECOGNISED,
    )


def _judge(file: Path, found: Found, ends: headers.Ends) -> tuple[str, int]:
    """Return the format and the virtual size, or refuse the file."""
    if headers.is_fixed_vhd(ends):
        # Its only header is at its end, where oslo.utils does not look.
        found["vhd"] = None
        found.pop("raw", None)
    kinds = sorted(set(found) - _RAW_CONTENT)
    if len(kinds) > 1 or (kinds and len(found) > 1 and None not in found.values()):
        raise ImageError(
            f"{str(file)!r} is several things at once: {', '.join(sorted(found))}",
            details="a file that two programs take for two different things is made to deceive",
            hint="don't use it; get the image from where it was made",
        )
    if not kinds:
        return "raw", ends.size
    (kind,) = kinds
    if kind not in FORMATS:
        raise ImageError(
            f"{str(file)!r} is a {kind} image, which is not taken in",
            hint="convert it where it was made: qemu-img convert -O qcow2 FILE NEW.qcow2",
        )
    virtual_size = headers.check(file, kind, ends)
    inspector = found[kind]
    if inspector is None:
        return kind, int(virtual_size or 0)
    if kind != "qcow2":
        # Its header is read whole above; oslo.utils sees features in version 2, which has none.
        _check_safety(file, kind, inspector)
    return kind, int(inspector.virtual_size if virtual_size is None else virtual_size)


def _check_safety(file: Path, kind: str, inspector: FileInspector) -> None:
    from oslo_utils.imageutils.format_inspector import (  # noqa: PLC0415
        ImageFormatError,
        SafetyCheckFailed,
    )

    try:
        inspector.safety_check()
    except SafetyCheckFailed as error:
        found = "; ".join(f"{name}: {failure}" for name, failure in sorted(error.failures.items()))
        raise ImageError(
            f"{str(file)!r} is a {kind} image that is not safe to be opened",
            details=found,
            hint=_HINT_ONE_FILE,
        ) from error
    except (ImageFormatError, ValueError) as error:
        raise ImageError(
            f"{str(file)!r} is a {kind} image that was cut off, or damaged",
            details=str(error),
            hint=_HINT_DAMAGED,
        ) from error
