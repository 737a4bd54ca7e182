"""Files of the client into volumes, and back: whole, or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vmctl.errors import (
    ConflictError,
    ImageError,
    NotFoundError,
    ResourceError,
    RollbackError,
    UsageError,
    VmctlError,
)
from vmctl.hypervisor import pools, uploads
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.outgrowing import warn_of_outgrowing
from vmctl.hypervisor.streams import data_size
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.imaging.conversion import check_once
from vmctl.imaging.inspection import inspect
from vmctl.imaging.reading import opened
from vmctl.progress import Phase, Reporter, being_undone
from vmctl.render.volume import render_block_volume, render_volume

__all__ = [
    "download",
    "made_or_undone",
    "overwrite",
    "refuse_target",
    "upload",
    "write_out",
]

# A volume's first bytes are written last: without them nobody takes it for whole.
_HEADER = 65536
# Longer than any upload takes.
_CLAIM_SECONDS = 86400.0


@contextmanager
def made_or_undone(volume: StoredVolume) -> Iterator[Callable[[], None]]:
    """Delete a volume again if what the block does after making it fails.

    Gives a function to call when the volume is known to be this block's own. Until then a failure
    of which libvirt reports says that it was not made, and it may be somebody else's.
    """
    own = False

    def is_ours() -> None:
        nonlocal own
        own = True

    try:
        yield is_ours
    except BaseException as error:
        if own or not isinstance(error, VmctlError):
            with being_undone():
                _undo(volume, error)
        raise


def _undo(volume: StoredVolume, cause: BaseException) -> None:
    try:
        outlasting(volume.delete)
    except VmctlError as failure:
        raise RollbackError(
            f"what was made of the volume '{volume.pool}/{volume.name}' could not be removed",
            left=(f"the volume '{volume.name}' in the pool '{volume.pool}'",),
            details=f"it failed because: {cause}\nthe undoing failed because: {failure}",
            hint="mend the cause, then `vmctl volume delete` removes it",
        ) from cause


def _inspect(path: Path, declared: str | None, phase: Phase) -> int:
    """Refuse a file that is not what it is said to be, before anything on the host opens it.

    Returns:
        The bytes that a guest would see.
    """
    found = inspect(path, format=declared, phase=phase)
    if found.format not in {"qcow2", "raw"}:
        raise ImageError(
            f"{str(path)!r} is {found.format}, and volumes are qcow2 or raw",
            hint="import it as an image, which converts it",
        )
    if found.format == "qcow2":
        check_once(found)
    return found.virtual_size


def _stamp(file: int) -> tuple[int, int, int]:
    status = os.fstat(file)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _refuse_changed(path: Path, file: int, before: tuple[int, int, int]) -> None:
    if _stamp(file) != before:
        raise ImageError(
            f"the file {str(path)!r} changed while it was being read",
            hint="upload a file that nothing writes to",
        )


def _refuse_without_room(volume: StoredVolume, needed: int) -> None:
    facts = pools.facts_of(volume.connection, volume.pool)
    if facts.available < needed:
        raise pools.no_room(
            volume.pool,
            f"for the volume '{volume.name}'",
            details=f"it takes {needed} bytes, and {facts.available} are free",
        )


def upload(volume: StoredVolume, path: Path, *, declared: str | None, reporter: Reporter) -> None:
    """Make a volume that holds what a client's file holds; holes stay holes.

    It is recorded before it is made, and its first bytes are written last.

    Args:
        volume: What to make.
        path: The file.
        declared: What it is said to be, ``qcow2`` or ``raw``; None for what it is found to be.
        reporter: Told of the phases ``image`` and ``upload``.

    Raises:
        ConflictError: There is a volume of that name, or somebody is uploading it.
        ImageError: The file can't be read, or is not what it is said to be.
        ResourceError: The pool has no room.
    """
    with opened(path) as opened_file:
        file = opened_file.fileno()
        before = _stamp(file)
        with reporter.phase("image") as phase:
            virtual_size = _inspect(path, declared, phase)
        if volume.exists():
            raise volume.name_is_taken()
        what = f"the volume '{volume.name}'"
        warn_of_outgrowing(volume.connection, volume.pool, what, virtual_size)
        size = os.fstat(file).st_size
        in_files = pools.facts_of(volume.connection, volume.pool).type in pools.FILE_POOLS
        _refuse_without_room(volume, data_size(file) if in_files else size)
        if not in_files:
            with made_or_undone(volume) as is_ours:
                volume.create(render_block_volume(volume.name, capacity=max(size, 1)))
                is_ours()
                _fill(volume, file, size, sparse=False, reporter=reporter)
                _refuse_changed(path, file, before)
            return
        with claimed(_CLAIM_SECONDS) as claim:
            uploads.mark(volume, claim)
            try:
                with made_or_undone(volume) as is_ours:
                    volume.create(render_volume(volume.name, capacity=size, format="raw"))
                    is_ours()
                    _fill(volume, file, size, sparse=True, reporter=reporter)
                    _refuse_changed(path, file, before)
            except RollbackError:
                # The volume is there still, and this record is what leads to it.
                raise
            except BaseException:
                with being_undone():
                    outlasting(lambda: uploads.unmark(volume))
                raise
            outlasting(lambda: uploads.unmark(volume))


def overwrite(
    volume: StoredVolume, path: Path, *, declared: str | None, reporter: Reporter
) -> None:
    """Write a client's file over a volume that is a device and not a file.

    Its first bytes are blanked before anything else and written last. So when this fails half-way,
    nobody takes the volume for what it was, or for what it should have become.

    Raises:
        UsageError: The volume is a file, or smaller than the client's.
        ImageError: The file can't be read, or is not what it is said to be.
    """
    facts = volume.facts()
    if facts.type == "file":
        raise UsageError(
            f"the volume '{volume.name}' is a file, and not written over",
            hint="delete it, and upload it again",
        )
    with opened(path) as opened_file:
        file = opened_file.fileno()
        before = _stamp(file)
        with reporter.phase("image") as phase:
            _inspect(path, declared, phase)
        size = os.fstat(file).st_size
        if size > facts.capacity:
            raise UsageError(
                f"the file has {size} bytes, and the volume '{volume.name}' {facts.capacity}",
                hint="grow the volume first, or use a larger one",
            )
        volume.write(bytes(min(_HEADER, size)))
        _fill(volume, file, size, sparse=False, reporter=reporter)
        _refuse_changed(path, file, before)


def _fill(volume: StoredVolume, file: int, size: int, *, sparse: bool, reporter: Reporter) -> None:
    done = 0
    header = min(_HEADER, size)
    with reporter.phase("upload") as phase:

        def sent(count: int) -> None:
            nonlocal done
            done += count
            phase.update("uploading", done / max(size, 1))

        if size > header:
            volume.upload(file, start=header, length=size - header, sparse=sparse, sent=sent)
        if header:
            volume.upload(file, start=0, length=header, sent=sent)


def download(volume: StoredVolume, path: Path, *, replace: bool, phase: Phase) -> int:
    """Write all of a volume into a new file on the client; holes stay holes.

    The file appears when it is whole, and is readable by this user alone.

    Args:
        volume: What to read.
        path: The file to make.
        replace: Whether a file that is there is replaced.
        phase: Told how far it is.

    Returns:
        The file's size in bytes.

    Raises:
        ConflictError: There is such a file.
        NotFoundError: There is no such volume, or no such folder.
    """
    refuse_target(path, replace=replace)
    size = volume.physical_size()
    done = 0

    def received(count: int) -> None:
        nonlocal done
        done += count
        phase.update("downloading", min(done / max(size, 1), 1.0))

    try:
        with _appearing(path, replace=replace) as file:
            volume.download(file, received=received)
            return os.fstat(file).st_size
    except OSError as error:
        raise ResourceError(
            f"can't write the file {str(path)!r}",
            details=error.strerror or str(error),
            hint="choose a folder that this user may write to, and that has room",
        ) from error


def write_out(volume: StoredVolume, out: BinaryIO, *, phase: Phase) -> int:
    """Write all of a volume to an open file, a pipe say, from its beginning; returns the bytes.

    A pipe has no holes: they are written as zeros.

    Raises:
        ResourceError: Whoever reads it takes no more, or there is no room.
    """
    size, done = volume.physical_size(), 0
    try:
        for piece in volume.pieces():
            for part in _zeros(piece) if isinstance(piece, int) else (piece,):
                out.write(part)
                done += len(part)
            phase.update("downloading", min(done / max(size, 1), 1.0))
        out.flush()
    except OSError as error:
        raise ResourceError(
            f"can't write all of the volume '{volume.name}'",
            details=error.strerror or str(error),
            hint="see what became of the program that it is written to",
        ) from error
    return done


def _zeros(count: int) -> Iterator[bytes]:
    block = bytes(min(count, _HEADER))
    while count:
        yield block[:count]
        count -= min(count, len(block))


def refuse_target(path: Path, *, replace: bool) -> None:
    """Refuse a file that can't be made, before any work is done for it.

    Raises:
        ConflictError: There is such a file.
        NotFoundError: There is no such folder.
        UsageError: It is something else than a file.
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UsageError(
            f"{str(path)!r} is no regular file, and is not replaced by one",
            hint="name a new file, or an ordinary one",
        )
    if not replace and path.exists():
        raise _file_exists(path)
    if not path.parent.is_dir():
        raise NotFoundError(f"there is no folder {str(path.parent)!r}", hint="make it first")


def _file_exists(path: Path) -> ConflictError:
    return ConflictError(
        f"there is a file {str(path)!r} already",
        hint="choose another name, or replace it: --replace, or replace=True",
    )


@contextmanager
def _appearing(path: Path, *, replace: bool) -> Iterator[int]:
    """Give an open file that gets its name when the block has succeeded.

    Until then it has none, where the file system can do that: a killed client leaves nothing.
    """
    folder = path.parent
    temporary: Path | None = None
    try:
        file = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        file, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=folder)
        temporary = Path(name)
    try:
        yield file
        if temporary is None and replace:
            temporary = folder / f".{path.name}.{secrets.token_hex(4)}.part"
            _link(f"/proc/self/fd/{file}", temporary)
        if temporary is not None and replace:
            temporary.replace(path)
        else:
            _link(f"/proc/self/fd/{file}" if temporary is None else str(temporary), path)
    finally:
        os.close(file)
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()


def _link(written: str, path: Path) -> None:
    # Python asks linkat(2) to follow the link in /proc only if it is given an open folder.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(written, path.name, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError as error:
        raise _file_exists(path) from error
    finally:
        os.close(folder)
