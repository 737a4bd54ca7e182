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

__all__ = ["Image", "base_name", "ensure_in_pool", "inspect", "is_base", "is_complete"]

_MAGIC = b"QFI\xfb"
_CHUNK = 1024 * 1024
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
            f"can't read the image {str(path)!r}", details=error.strerror or str(error)
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
        raise ImageError(f"{str(path)!r} is a qcow2 image of the unknown version {version}")
    if backing:
        raise ImageError(
            f"{str(path)!r} is an overlay: its header names a backing file",
            hint="merge it with its backing file first: qemu-img convert -O qcow2 FILE NEW.qcow2",
        )
    incompatible = struct.unpack(">Q", header[72:80])[0] if version == 3 else 0
    if incompatible & 0b100:
        raise ImageError(f"{str(path)!r} keeps its data in another file, which its header names")
    if incompatible & ~0b11111:
        raise ImageError(f"{str(path)!r} has qcow2 features that are not known here")
    if incompatible & 0b10:
        raise ImageError(f"{str(path)!r} is marked as corrupt", hint="qemu-img check FILE")
    if not 0 < virtual_size <= _MAX_VIRTUAL_SIZE:
        raise ImageError(f"{str(path)!r} claims a disk of {virtual_size} bytes")
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
    """Return whether a base image in the pool is whole."""
    return pool.download(volume, length=4) == _MAGIC


def ensure_in_pool(
    pool: Pool, image: Image, *, phase: Phase, before_upload: Callable[[], None]
) -> Volume:
    """Return the image's volume, uploaded if it isn't there; of many that try, one uploads.

    Args:
        pool: Where to.
        image: What.
        phase: Told how far it is.
        before_upload: Called before the volume is created.

    Raises:
        ResourceError: The pool is too full.
        ImageError: The file changed while it was being read.
    """
    name = base_name(image)
    while True:
        found = pool.find(name)
        if found is not None and is_complete(pool, name):
            phase.update("already in the pool")
            return found
        if found is None:
            before_upload()
            try:
                pool.create(name, render_volume(name, capacity=image.size, format="raw"))
            except ConflictError:
                continue
            return _upload(pool, image, name, phase)
        _await_other_upload(pool, name, phase)


def _upload(pool: Pool, image: Image, name: str, phase: Phase) -> Volume:
    pool.refresh()
    if pool.info().available < image.size:
        pool.delete(name)
        raise pool.no_room(f"for the image ({image.size} bytes)")
    sent = 0
    sha256 = hashlib.sha256()

    def progress(count: int) -> None:
        nonlocal sent
        sent += count
        phase.update("uploading", sent / image.size)

    try:
        with image.path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
            sha256.update(header)
            rest = _Hashing(file, sha256.update)
            pool.upload(
                name,
                rest,  # type: ignore[arg-type]  # it only has to be read from
                length=image.size - len(header),
                offset=len(header),
                sent=progress,
            )
        if sha256.hexdigest() != image.digest:
            raise ImageError(
                f"the image {str(image.path)!r} changed while it was being read",
                hint="launch from a file that nothing writes to",
            )
        pool.upload(name, io.BytesIO(header), length=len(header), sent=progress)
    except BaseException:
        pool.delete(name)
        raise
    found = pool.find(name)
    if found is None:
        raise ConflictError(
            f"the volume '{name}' was removed while it was being uploaded",
            hint="launch again",
        )
    return found


class _Hashing:
    """Reads from a file and shows each piece to somebody."""

    def __init__(self, file: io.BufferedReader, show: Callable[[bytes], None]) -> None:
        self._file = file
        self._show = show

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._show(piece)
        return piece


def _await_other_upload(pool: Pool, name: str, phase: Phase) -> None:
    """Wait for somebody else's upload to end; one that nobody is behind any more is removed."""
    phase.update("somebody else is uploading it")
    while True:
        before = pool.volume_info(name)
        moved = Signal().wait_for(
            lambda seen=before: _moved(pool, name, seen),  # type: ignore[misc]
            deadline=time.monotonic() + _STALLED_SECONDS,
            recheck=0.5,
        )
        if moved is None:
            pool.delete(name)
            return
        if moved == "done":
            return


def _moved(pool: Pool, name: str, before: object) -> str | None:
    now = pool.volume_info(name)
    if now is None or is_complete(pool, name):
        return "done"
    return "moved" if now != before else None
