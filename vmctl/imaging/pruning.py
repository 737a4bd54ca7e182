"""This machine's caches of images, emptied. All that is in them can be had again."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmctl.imaging.build.cache import abandoned_builds, default_cache
from vmctl.imaging.digests import cache_folder
from vmctl.imaging.download_cache import DownloadCache
from vmctl.imaging.qemu_img import CONVERTING
from vmctl.imaging.scratch import SCRATCH, abandoned, scratch_root

__all__ = ["CachedFile", "prune_cache"]


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """A file or folder of a cache.

    Attributes:
        kind: ``download``, ``unpacked``, ``converted``, or ``abandoned``: what a process that was
            killed was at work on.
        path: Where it is, or was.
        size: Bytes that it takes.
    """

    kind: str
    path: str
    size: int


def prune_cache(*, dry_run: bool = False) -> list[CachedFile]:
    """Remove what is cached on this machine, but for what somebody is at work on.

    Images that were built here stay: they are no copies of anything.

    Args:
        dry_run: Only look.

    Returns:
        What was, or would be, removed.
    """
    return [entry for part in (_downloads, _unpacked, _folders) for entry in part(dry_run=dry_run)]


def _downloads(*, dry_run: bool) -> Iterator[CachedFile]:
    folder = cache_folder() / "downloads"
    if not folder.is_dir():
        return
    cache = DownloadCache(folder)
    for path in sorted((folder / "files").iterdir()):
        yield _taken("download", path, dry_run=dry_run)
    for slot in cache.slots():
        with slot.locked(wait=False) as mine:
            if not mine:
                continue
            if slot.part.exists():
                yield CachedFile(kind="abandoned", path=str(slot.part), size=_size(slot.part))
            if not dry_run:
                slot.forget()


def _unpacked(*, dry_run: bool) -> Iterator[CachedFile]:
    for path in _entries(cache_folder() / "unpacked"):
        if path.suffix == ".lock":
            continue
        with _held(path.with_name(f"{path.name.removesuffix('.part')}.lock")) as mine:
            if mine:
                kind = "abandoned" if path.suffix == ".part" else "unpacked"
                yield _taken(kind, path, dry_run=dry_run)


def _folders(*, dry_run: bool) -> Iterator[CachedFile]:
    converted = cache_folder() / "converted"
    for path in _entries(converted):
        if path.is_file():
            yield _taken("converted", path, dry_run=dry_run)
    for root, prefix in ((converted, CONVERTING), (scratch_root(), SCRATCH)):
        for path in abandoned(root, prefix):
            yield _taken("abandoned", path, dry_run=dry_run)
    for path in abandoned_builds(default_cache(), remove=not dry_run):
        yield CachedFile(kind="abandoned", path=str(path), size=_size(path))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _taken(kind: str, path: Path, *, dry_run: bool) -> CachedFile:
    entry = CachedFile(kind=kind, path=str(path), size=_size(path))
    if not dry_run and path.is_dir():
        shutil.rmtree(path)
    elif not dry_run:
        path.unlink(missing_ok=True)
    return entry


def _size(path: Path) -> int:
    """Return the bytes that a file, or all in a folder, takes: holes take none."""
    if path.is_dir() and not path.is_symlink():
        return sum(_size(inner) for inner in path.iterdir())
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0


@contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Hold a lock, unless somebody else does."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
        lock.unlink(missing_ok=True)
    finally:
        os.close(handle)
