"""Compressed images: unpacked on the way, under bounds, with holes for zeros."""

from __future__ import annotations

import bz2
import errno
import fcntl
import lzma
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from vmctl.errors import ConflictError, ImageError, ResourceError
from vmctl.imaging.reading import opened, reading
from vmctl.progress import Phase

__all__ = ["BOUNDS", "Bounds", "compression_of", "unpack"]

_MAGIC = (
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x1f\x8b\x08", "gz"),
    (b"BZh", "bz2"),
    (b"\x28\xb5\x2f\xfd", "zst"),
)
_READ = 256 * 1024
# zstd can't be told to stop in the middle: 4 bytes of it may be a block of 128 KiB, so that this
# much of it is at most 128 MiB at once.
_READ_ZST = 4 * 1024
_PIECE = 1024 * 1024
_BLOCK = 64 * 1024
_ZEROS = bytes(_BLOCK)
# How much is written between two looks at the free space.
_LOOK = 64 * 1024**2
# What xz -9 and zstd --ultra need; more is asked for by nobody who means well.
_MEMORY = 512 * 1024**2
_ZST_WINDOW = 128 * 1024**2
_HINT_DAMAGED = "get it again, and compare its checksum"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much a compressed file may unfold to.

    Attributes:
        ratio: The most bytes that one compressed byte may stand for, on average.
        free: So many bytes are never too many, whatever the ratio.
        reserve: Bytes of the file system that are left alone.
    """

    ratio: int = 250
    free: int = 1024**3
    reserve: int = 64 * 1024**2


BOUNDS = Bounds()


def compression_of(path: Path) -> str | None:
    """Return how a file is compressed: ``xz``, ``gz``, ``bz2``, ``zst``, or None.

    Its first bytes decide, never its name.

    Raises:
        NotFoundError: There is no such file.
        ImageError: It can't be read.
    """
    with opened(path) as handle, reading(path):
        begin = handle.read(6)
    return next((name for magic, name in _MAGIC if begin.startswith(magic)), None)


def unpack(
    path: Path,
    target: Path,
    *,
    phase: Phase | None = None,
    max_size: int = 1024**4,
    bounds: Bounds = BOUNDS,
) -> Path:
    """Unpack a file; the target appears when it is whole, and is replaced if it is there.

    Zeros take no room in the target. Files of several parts one after the other are unpacked as
    their own tools do it.

    Args:
        path: A file that is compressed with xz, gzip, bzip2 or zstd.
        target: The new file.
        phase: Told how far it is.
        max_size: The most bytes that the target may have.
        bounds: What is refused as a bomb.

    Returns:
        The target.

    Raises:
        NotFoundError: There is no such file.
        ImageError: It is not compressed, is damaged, was cut off, has something behind its end, or
            unfolds to more than it may. Nothing is left of what was written.
        ResourceError: There is no room for it.
        ConflictError: Somebody else is unpacking to the same target.
    """
    kind = compression_of(path)
    if kind is None:
        raise ImageError(
            f"{str(path)!r} is not compressed with xz, gzip, bzip2 or zstd",
            hint="import it as it is",
        )
    with opened(path) as source, _part_of(target) as part:
        try:
            _copy(source, part, kind, _Guard(path, target, max_size, bounds), phase)
        except _DAMAGED as error:
            raise ImageError(
                f"{str(path)!r} is damaged: its {kind} data can't be unpacked",
                details=str(error),
                hint=_HINT_DAMAGED,
            ) from None
        os.fsync(part.fileno())
        _part(target).replace(target)
    return target


class _UnfitError(Exception):
    """The data is not of the format that its beginning says."""


_DAMAGED = (lzma.LZMAError, zlib.error, EOFError, _UnfitError)


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


@contextmanager
def _part_of(target: Path) -> Iterator[BinaryIO]:
    """Make ``TARGET.part``, which is removed when the block fails.

    One that a killed client left is locked by nobody, and is taken over.
    """
    part = _part(target)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.fdopen(os.open(part, flags, 0o600), "wb", buffering=0)
    except OSError as error:
        raise ResourceError(
            f"can't write {str(part)!r}: {error.strerror}",
            hint="unpack into a folder that this user may write",
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock until now may have made this very file the target.
            if not os.path.samestat(os.fstat(handle.fileno()), part.stat()):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            raise ConflictError(
                f"somebody else is unpacking {target.name!r} right now",
                hint="wait until that is done",
            ) from None
        try:
            handle.truncate(0)
            yield handle
        except BaseException:
            part.unlink(missing_ok=True)
            raise


class _Guard:
    """Refuses what unfolds to more than it may, and what there is no room for."""

    def __init__(self, path: Path, target: Path, max_size: int, bounds: Bounds) -> None:
        self._path = path
        self._folder = target.parent
        self._max_size = max_size
        self._bounds = bounds
        self._looked_at = -_LOOK

    def check(self, *, taken: int, total: int, written: int) -> None:
        """Check before the next piece.

        Args:
            taken: Compressed bytes so far.
            total: Bytes that they stand for.
            written: Bytes of these that are no holes.
        """
        allowed = max(self._bounds.free, taken * self._bounds.ratio)
        if total > min(allowed, self._max_size):
            raise ImageError(
                f"{str(self._path)!r} unfolds to more than it may",
                details=f"{taken} compressed bytes of it have unfolded to {total} bytes and more; "
                f"the limits are {self._max_size} bytes and {self._bounds.ratio} times as many",
                hint="if it is meant to be so, unpack it yourself and import the result",
            )
        if written - self._looked_at >= _LOOK:
            self._looked_at = written
            if shutil.disk_usage(self._folder).free < self._bounds.reserve:
                raise self.full()

    def full(self) -> ResourceError:
        return ResourceError(
            f"there is no room to unpack {str(self._path)!r} in {self._folder}",
            hint="make room there, or unpack it somewhere else",
        )


def _copy(source: BinaryIO, part: BinaryIO, kind: str, guard: _Guard, phase: Phase | None) -> None:
    size = max(os.fstat(source.fileno()).st_size, 1)
    total = written = 0
    try:
        for piece in _unpacked(source, kind):
            written += _write_sparse(part, piece, total)
            total += len(piece)
            guard.check(taken=source.tell(), total=total, written=written)
            if phase is not None:
                phase.update("unpacking", source.tell() / size)
        part.truncate(total)
    except OSError as error:
        if error.errno is None:  # bz2's word for damage
            raise _UnfitError(str(error)) from None
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        raise guard.full() from error


def _write_sparse(part: BinaryIO, piece: bytes, offset: int) -> int:
    """Write a piece, but not its zeros, and return how much was written."""
    view, begin, written = memoryview(piece), 0, 0
    while begin < len(view):
        # Pieces of the blocks that the file system has.
        end = min(len(view), begin + _BLOCK - (offset + begin) % _BLOCK)
        # Bytes, for a view is compared one by one.
        if piece[begin:end] != _ZEROS[: end - begin]:
            block = view[begin:end]
            while block:
                block = block[os.pwrite(part.fileno(), block, offset + end - len(block)) :]
            written += end - begin
        begin = end
    return written


def _unpacked(source: BinaryIO, kind: str) -> Iterator[bytes]:
    """Yield what a compressed file stands for, one part of it after the other.

    Raises:
        EOFError: It was cut off.
        _UnfitError: There is something else behind its end.
    """
    data = source.read(_READ_ZST if kind == "zst" else _READ)
    while data:
        stream = _STREAMS[kind]()
        while not stream.ended:
            if not data and stream.hungry:
                data = source.read(_READ_ZST if kind == "zst" else _READ)
                if not data:
                    raise EOFError("it was cut off")
            piece = stream.feed(data)
            data = b""
            if piece:
                yield piece
        data = stream.rest or source.read(_READ_ZST if kind == "zst" else _READ)
        if kind == "xz":
            data = _without_padding(data, source)


def _without_padding(data: bytes, source: BinaryIO) -> bytes:
    # An xz file may end in zeros, four at a time.
    zeros = 0
    while data:
        bare = data.lstrip(b"\0")
        zeros += len(data) - len(bare)
        if bare:
            data = bare
            break
        data = source.read(_READ)
    if zeros % 4:
        raise _UnfitError("there is something else behind its end")
    return data


class _Stream(Protocol):
    """One part of a compressed file."""

    def feed(self, data: bytes) -> bytes:
        """Take compressed data, or none; return some of what it stands for."""

    @property
    def hungry(self) -> bool:
        """Whether it gives no more without more data."""

    @property
    def ended(self) -> bool:
        """Whether its end was seen."""

    @property
    def rest(self) -> bytes:
        """What came behind its end."""


class _Bounded:
    """xz and bzip2, which keep what they have not unpacked yet."""

    def __init__(self, inner: lzma.LZMADecompressor | bz2.BZ2Decompressor) -> None:
        self._inner = inner

    def feed(self, data: bytes) -> bytes:
        return self._inner.decompress(data, _PIECE)

    @property
    def hungry(self) -> bool:
        return self._inner.needs_input

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._full = False

    def feed(self, data: bytes) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, _PIECE)
        # With a full piece there may be more inside, even when no data is left over.
        self._full = len(out) == _PIECE
        return out

    @property
    def hungry(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data


class _Zstd:
    def __init__(self) -> None:
        import zstandard  # noqa: PLC0415 - needed by few

        self._error = zstandard.ZstdError
        inner = zstandard.ZstdDecompressor(max_window_size=_ZST_WINDOW)
        self._inner = inner.decompressobj()

    def feed(self, data: bytes) -> bytes:
        try:
            return self._inner.decompress(data)
        except self._error as error:
            raise _UnfitError(str(error)) from None

    @property
    def hungry(self) -> bool:
        return True

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data


_STREAMS: dict[str, Callable[[], _Stream]] = {
    "xz": lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY)),
    "gz": _Gzip,
    "bz2": lambda: _Bounded(bz2.BZ2Decompressor()),
    "zst": _Zstd,
}
