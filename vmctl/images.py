"""Images: looked at before anything opens them, and kept in the pool once, by their digest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vmctl.errors import ConflictError, ImageError, NotFoundError
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.storage import Pool, Volume
from vmctl.progress import Phase
from vmctl.render.volume import render_volume

__all__ = [
    "Image",
    "base_name",
    "ensure_in_pool",
    "inspect",
    "is_base",
    "is_complete",
    "refuse_without_room",
]

_MAGIC = b"QFI\xfb"
_CHUNK = 1024 * 1024
_V3_HEADER = 104
_HINT_DAMAGED = "get it again, and compare its checksum"
# The header goes into the pool last: a base image whose first bytes are there is whole.
_HEADER_SIZE = 65536
# An upload that has not moved for so long has nobody behind it.
_STALLED_SECONDS = 30.0
# More than any disk that a guest here could have; qemu-img itself stops at 8 EiB.
_MAX_VIRTUAL_SIZE = 1 << 50


@dataclass(frozen=True, kw_only=True)
class Image:
    """A qcow2 file that was found fit to be a base.

    Attributes:
        path: Where it lies, on the client.
        size: Bytes of the file.
        virtual_size: Bytes a guest sees.
        digest: SHA-256 of the file, in hexadecimal.
    """

    path: Path
    size: int
    virtual_size: int
    digest: str


def inspect(path: str | os.PathLike[str], *, phase: Phase | None = None) -> Image:
    """Look at an image file without any tool that would follow what its header says.

    Args:
        path: A local qcow2 file.
        phase: Told how far the reading is.

    Raises:
        NotFoundError: There is no such file.
        ImageError: It can't be read, is no qcow2, or names other files.
    """
    file = Path(path).expanduser()
    try:
        status = file.stat()
        with file.open("rb") as handle:
            virtual_size = _check_header(file, handle.read(_HEADER_SIZE))
            digest = _remembered_digest(file, status)
            if digest is None:
                handle.seek(0)
                digest = _digest(handle, status.st_size, phase)
                _remember_digest(file, status, digest)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no image file {str(path)!r}",
            hint="give the path of a qcow2 file",
        ) from error
    except OSError as error:
        raise ImageError(
            f"can't read the image {str(path)!r}",
            details=error.strerror or str(error),
            hint="give the path of a qcow2 file that this user may read",
        ) from error
    return Image(path=file, size=status.st_size, virtual_size=virtual_size, digest=digest)


def _check_header(path: Path, header: bytes) -> int:
    """Return the virtual size that a qcow2 header states, or refuse it.

    The fields: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst
    """
    if header[:4] != _MAGIC or len(header) < 72:
        raise ImageError(
            f"{str(path)!r} is not a qcow2 image",
            hint="convert it first: qemu-img convert -f FORMAT -O qcow2 FILE NEW.qcow2",
        )
    version, backing = struct.unpack(">IQ", header[4:16])
    (virtual_size,) = struct.unpack(">Q", header[24:32])
    if version not in {2, 3}:
        raise ImageError(
            f"{str(path)!r} is a qcow2 image of the unknown version {version}",
            hint="qcow2 has the versions 2 and 3: make it anew with a qemu-img that is not newer",
        )
    if backing:
        raise ImageError(
            f"{str(path)!r} is an overlay: its header names a backing file",
            hint="merge it with its backing file first: qemu-img convert -O qcow2 FILE NEW.qcow2",
        )
    if version == 3 and len(header) < _V3_HEADER:
        raise ImageError(f"{str(path)!r} is a qcow2 image that was cut off", hint=_HINT_DAMAGED)
    incompatible = struct.unpack(">Q", header[72:80])[0] if version == 3 else 0
    if incompatible & 0b100:
        raise ImageError(
            f"{str(path)!r} keeps its data in another file, which its header names",
            hint="put it into one file: qemu-img convert -O qcow2 FILE NEW.qcow2",
        )
    if incompatible & ~0b11111:
        raise ImageError(
            f"{str(path)!r} has qcow2 features that are not known here",
            hint="write it without them: qemu-img convert -O qcow2 FILE NEW.qcow2",
        )
    if incompatible & 0b10:
        raise ImageError(f"{str(path)!r} is marked as corrupt", hint="qemu-img check FILE")
    if not 0 < virtual_size <= _MAX_VIRTUAL_SIZE:
        raise ImageError(
            f"{str(path)!r} claims a disk of {virtual_size} bytes",
            hint="a disk has from 1 byte to 1 PiB: see what made the image",
        )
    return int(virtual_size)


def _digest(handle: io.BufferedReader, size: int, phase: Phase | None) -> str:
    sha256 = hashlib.sha256()
    done = 0
    while piece := handle.read(_CHUNK):
        sha256.update(piece)
        done += len(piece)
        if phase is not None:
            phase.update("computing its digest", done / max(size, 1))
    return sha256.hexdigest()


# -- digests that were computed before


@dataclass(frozen=True)
class _Stamp:
    """What says that a file is still the one that was read."""

    path: str
    size: int
    mtime: int
    ctime: int
    inode: int

    @classmethod
    def of(cls, file: Path, status: os.stat_result) -> _Stamp:
        return cls(
            str(file.resolve()),
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        )

    @property
    def entry(self) -> Path:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        name = hashlib.sha256(self.path.encode()).hexdigest()[:32]
        return Path(cache).expanduser() / "vmctl" / "digests" / f"{name}.json"


def _remembered_digest(file: Path, status: os.stat_result) -> str | None:
    stamp = _Stamp.of(file, status)
    try:
        entry = json.loads(stamp.entry.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(entry, dict) or entry.get("stamp") != asdict(stamp):
        return None
    digest = entry.get("digest")
    return digest if isinstance(digest, str) else None


def _remember_digest(file: Path, status: os.stat_result, digest: str) -> None:
    # A file that was written a moment ago may be written again within the clock's grain.
    if time.time_ns() - status.st_ctime_ns < 2_000_000_000:
        return
    stamp = _Stamp.of(file, status)
    # It is only a cache: where it can't be written, the digest is computed again.
    with suppress(OSError):
        stamp.entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=stamp.entry.parent, delete=False, encoding="utf-8"
        ) as temporary:
            json.dump({"stamp": asdict(stamp), "digest": digest}, temporary)
        Path(temporary.name).replace(stamp.entry)


# -- in the pool


def base_name(image: Image) -> str:
    """Return the name of the image's volume."""
    return f"sha256-{image.digest}.qcow2"


def is_base(volume: str) -> bool:
    """Return whether a volume of that name is a base image of vmctl's."""
    return volume.startswith("sha256-") and volume.endswith(".qcow2") and len(volume) == 77


def is_complete(pool: Pool, volume: str) -> bool:
    """Return whether a base image is in the pool, and whole."""
    try:
        return pool.download(volume, length=len(_MAGIC)) == _MAGIC
    except NotFoundError:
        return False


def refuse_without_room(pool: Pool, image: Image) -> None:
    """Say that the pool has no room for an image that it lacks, before anything is made.

    Raises:
        ResourceError: It has less than the image's size free.
    """
    if pool.find(base_name(image)) is not None:
        return
    pool.refresh()
    if pool.info().available < image.size:
        raise pool.no_room(f"for the image ({image.size} bytes)")


def ensure_in_pool(
    pool: Pool, image: Image, *, phase: Phase, note_brought: Callable[[bool], None]
) -> Volume:
    """Return the image's volume, uploaded if it isn't there; of many that try, one uploads.

    Whoever uploads writes the same bytes to the same places, and the header last. So one whose
    uploader has gone can be taken over by writing all of it again; nothing is deleted here.

    Args:
        pool: Where to.
        image: What.
        phase: Told how far it is.
        note_brought: Called with True before the volume is created or taken over, and with False
            when it turns out that it was there.

    Raises:
        ResourceError: The pool is too full.
        ImageError: The file changed while it was being read.
        ConflictError: The upload stood still for so long that another may have taken it over.
    """
    name = base_name(image)
    while True:
        if is_complete(pool, name):
            phase.update("already in the pool")
            break
        if pool.find(name) is None:
            note_brought(True)
            try:
                pool.create(name, render_volume(name, capacity=image.size, format="raw"))
            except ConflictError:
                note_brought(False)
                pool.refresh()
                continue
            _upload(pool, image, name, phase)
        elif _stands_still(pool, name, phase):
            phase.update("its uploader is gone; uploading it again")
            # Whoever began it may not be there any more to take it away.
            note_brought(True)
            _upload(pool, image, name, phase)
    found = pool.find(name)
    if found is None:
        raise ConflictError(
            f"the volume '{name}' was removed while it was about to be used",
            hint="launch again",
        )
    return found


def _upload(pool: Pool, image: Image, name: str, phase: Phase) -> None:
    sent, moved = 0, _clock()
    sha256 = hashlib.sha256()

    def check() -> None:
        """Give up after a stall: somebody else may have taken it over."""
        nonlocal moved
        now = _clock()
        if now - moved > _STALLED_SECONDS / 2:
            raise ConflictError(
                f"the upload of the image {str(image.path)!r} stood still for too long",
                hint="launch again",
            )
        moved = now

    def progress(count: int) -> None:
        nonlocal sent
        check()
        sent += count
        phase.update("uploading", sent / image.size)

    def show(piece: bytes) -> None:
        check()
        sha256.update(piece)

    with image.path.open("rb") as file:
        header = file.read(_HEADER_SIZE)
        # These bytes are what QEMU will see; those that were looked at before may be others.
        _check_header(image.path, header)
        sha256.update(header)
        pool.upload(
            name,
            _Shown(file, show),  # type: ignore[arg-type]  # it only has to be read from
            length=image.size - len(header),
            offset=len(header),
            sent=progress,
        )
    if sha256.hexdigest() != image.digest:
        raise ImageError(
            f"the image {str(image.path)!r} changed while it was being read",
            hint="launch from a file that nothing writes to",
        )
    check()
    pool.upload(name, io.BytesIO(header), length=len(header), sent=progress)


def _clock() -> float:
    """Return seconds that go on while the machine sleeps, as they do for others."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Shown:
    """Reads from a file and shows each piece to somebody."""

    def __init__(self, file: io.BufferedReader, show: Callable[[bytes], None]) -> None:
        self._file = file
        self._show = show

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._show(piece)
        return piece


def _stands_still(pool: Pool, name: str, phase: Phase) -> bool:
    """Wait for somebody else's upload to move, or to end; returns whether it doesn't."""
    phase.update("somebody else is uploading it")
    before = pool.volume_info(name)

    def moved() -> bool | None:
        return True if pool.volume_info(name) != before or is_complete(pool, name) else None

    deadline = time.monotonic() + _STALLED_SECONDS
    return Signal().wait_for(moved, deadline=deadline, recheck=0.5) is None
