"""Room on the client for disks on their way, which nobody else can read and nothing outlives.

It lies in ``$TMPDIR``, or ``/var/tmp``, where large files belong. Each folder is locked by who
works in it; one that isn't was left by a process that was killed, and goes when the next begins.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vmctl.errors import ResourceError

__all__ = [
    "SCRATCH",
    "abandoned",
    "folder_beside",
    "refuse_without_room",
    "saying_when_full",
    "scratch_folder",
    "scratch_root",
    "working_folder",
]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOCK = "lock"
SCRATCH = "run-"
"""What the names of scratch folders begin with."""
# What a folder beside an export's target ends in; its beginning is the target's name.
_BESIDE = ".vmctl-part"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give an empty folder that is gone after the block.

    Raises:
        ResourceError: There can be none.
    """
    root = scratch_root()
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        status = root.lstat()
    except OSError as error:
        raise _no_room(root, error.strerror or str(error)) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise _no_room(root, "it belongs to somebody else, or others can write to it")
    with working_folder(root, SCRATCH) as inner:
        yield inner


@contextmanager
def working_folder(root: Path, prefix: str) -> Iterator[Path]:
    """Give an empty folder below ``root`` that is gone after the block.

    It is locked as long as its process lives. Those of the same prefix that nobody holds any more
    are removed first.

    Args:
        root: The folder that it is made in.
        prefix: What its name begins with; nobody else's names do.
    """
    # One after another, so that a folder that has no lock yet isn't taken for one that was left.
    with _locked(root):
        for left in _abandoned(root, prefix):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        inner = folder / "files"
        inner.mkdir()
        yield inner
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """Give an empty folder on the target's file system that is gone after the block.

    What a process left that was killed at the same target goes first.

    Raises:
        OSError: There can be none.
    """
    prefix = f".{target.name}."
    for left in target.parent.glob(f"{glob.escape(prefix)}*{_BESIDE}"):
        with suppress(OSError), _locked(left, fcntl.LOCK_NB):
            shutil.rmtree(left, ignore_errors=True)
    folder, lock = _locked_folder(target.parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=_BESIDE))
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        # Where folders can't be locked, no other process takes one for left behind either.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Before it had its lock, another process may have taken it for left behind.
        if folder.exists():
            return folder, handle
        os.close(handle)


def scratch_root() -> Path:
    """Return the folder that this user's scratch folders are in; it need not be there."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp") / f"vmctl-{os.getuid()}"  # noqa: S108


def _no_room(root: Path, why: str) -> ResourceError:
    return ResourceError(
        f"there is no room for disks on their way in {root}",
        details=why,
        hint="set TMPDIR to a folder of your own with enough room",
    )


@contextmanager
def _locked(root: Path, how: int = 0) -> Iterator[None]:
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(handle)


def abandoned(root: Path, prefix: str) -> Iterator[Path]:
    """Yield the folders of a prefix that nobody works in, each locked while it is looked at."""
    if root.is_dir():
        with _locked(root):
            yield from _abandoned(root, prefix)


def _abandoned(root: Path, prefix: str) -> Iterator[Path]:
    for folder in [path for path in root.iterdir() if path.name.startswith(prefix)]:
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
            continue
        # Its maker may have been killed before there was a lock.
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield folder
        finally:
            os.close(lock)


_HINT_FULL = "make room there, or set TMPDIR to a folder with more of it"


@contextmanager
def saying_when_full(what: str, *, hint: str = _HINT_FULL) -> Iterator[None]:
    """Say in vmctl's words that a file system filled up while the block wrote to it.

    Args:
        what: What there is no room for.
        hint: What helps, where it is not a scratch folder that was written to.

    Raises:
        ResourceError: It did.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ResourceError(
            f"there is no room for {what} any more",
            details=error.strerror or str(error),
            hint=hint,
        ) from error


def refuse_without_room(folder: Path, size: int, what: str) -> None:
    """Say that a file system has no room, before anything is written to it.

    Raises:
        ResourceError: Less than ``size`` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ResourceError(
            f"there is no room for {what} in {folder}",
            details=f"it takes {size} bytes, and {free} are free",
            hint=_HINT_FULL,
        )
