"""Files on this machine: read as long as they stay as they are, written so that none is half.

What a guest calls its files decides nothing here: everything is opened below a folder's
descriptor, by one name at a time, and no link is followed on the way.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vmctl.errors import ConflictError, NotFoundError, ResourceError, UsageError, VmctlError
from vmctl.guest.sftp import part_name

__all__ = ["Entry", "Folder", "deny_special", "mode_of", "pieces_of", "pieces_of_file", "scan"]

_PIECE = 32768
# A guest's modes never give a file on this machine another user's rights.
_KEPT_MODE = 0o777
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file, a folder or a link of a tree, on whichever side.

    Attributes:
        place: Its names from the top of the tree down; empty for the top itself.
        mode: Its kind and its mode.
        size: Bytes; of a file only.
        mtime: When it was changed, in seconds since 1970.
    """

    place: tuple[str, ...]
    mode: int
    size: int
    mtime: int


def mode_of(path: Path) -> int:
    """Return the kind and the mode of what there is, through a link.

    Raises:
        NotFoundError: There is nothing.
    """
    with _calling("look at", path):
        return path.stat().st_mode


def deny_special(name: str, mode: int) -> None:
    """Refuse what is neither a file, a folder nor a link.

    Raises:
        UsageError: It is not.
    """
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
        return
    kinds = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe"}
    raise UsageError(
        f"{name} is a {kinds.get(stat.S_IFMT(mode), 'device')}, which can't be copied",
        hint="copy a folder without it",
    )


def _deny_unsayable(name: str, place: Path) -> None:
    """Refuse a name that can't be said to a guest.

    Raises:
        UsageError: It is not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the name {name!r} in {str(place)!r} is not UTF-8, and can't be copied",
            hint="rename it, or make an archive and copy that; nothing was copied",
        ) from error


@contextmanager
def _calling(doing: str, path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"could not {doing} {path}"
        if error.errno == errno.ENOENT:
            raise NotFoundError(f"there is no {path}", hint="give a path that exists") from error
        if error.errno in _FULL:
            raise ResourceError(
                f"{text}: there is no room on this machine",
                hint="make room, or copy to another place; what was begun is removed",
            ) from error
        if error.errno in {errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENOTEMPTY}:
            raise ConflictError(
                f"{text}: something else of that name is there",
                hint="remove it, or copy to another place",
            ) from error
        raise VmctlError(
            text, details=error.strerror or str(error), hint="check the path and its permissions"
        ) from error


def scan(top: Path) -> list[Entry]:
    """Return what a tree has, folders before what is in them; links are not followed.

    Raises:
        NotFoundError: There is nothing.
        UsageError: Something in it can't be copied.
    """
    with _calling("read", top):
        # The top may be a link: it was named by whoever calls.
        found = [_entry((), os.stat(top))]  # noqa: PTH116 - as os.scandir gives it below
        deny_special(str(top), found[0].mode)
        _deny_unsayable(top.name, top)
        folders = [()] if stat.S_ISDIR(found[0].mode) else []
        waiting: list[tuple[str, ...]] = list(folders)
        while waiting:
            place = waiting.pop()
            with os.scandir(top.joinpath(*place)) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    facts = entry.stat(follow_symlinks=False)
                    deny_special(entry.path, facts.st_mode)
                    _deny_unsayable(entry.name, top.joinpath(*place))
                    found.append(_entry((*place, entry.name), facts))
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((*place, entry.name))
    return found


def _entry(place: tuple[str, ...], facts: os.stat_result) -> Entry:
    return Entry(place=place, mode=facts.st_mode, size=facts.st_size, mtime=int(facts.st_mtime))


def pieces_of(path: Path) -> Iterator[bytes]:
    """Give what is in a file, piece by piece, as long as it stays as it was.

    Raises:
        ConflictError: It was changed meanwhile.
    """
    with _calling("read", path), path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        given = 0
        while piece := file.read(_PIECE):
            given += len(piece)
            yield piece
        after = os.fstat(file.fileno())
    if _version(before) != _version(after) or given != before.st_size:
        raise ConflictError(
            f"{path} changed while it was copied",
            hint="copy it again when nobody writes to it",
        )


def pieces_of_file(file: BinaryIO) -> Iterator[bytes]:
    """Give what is left in an open file, piece by piece."""
    with _calling("read", "what was given"):
        while piece := file.read(_PIECE):
            yield piece


def _version(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


class Folder:
    """An open folder on this machine; close it, or use it in a ``with`` block."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def at(cls, path: Path) -> Folder:
        """Open a folder, which may be a link: it was named by whoever calls."""
        with _calling("open", path):
            return cls(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._descriptor)

    def below(self, name: str) -> Folder:
        """Open a folder in it, after making it where there is none.

        Raises:
            ConflictError: Something of that name is no folder.
        """
        path = self.path / name
        with _calling("make the folder", path):
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self._descriptor)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            return Folder(path, os.open(name, flags, dir_fd=self._descriptor))

    def set_times_and_mode(self, *, mode: int, mtime: int) -> None:
        """Set both of the folder itself."""
        with _calling("set the mode of", self.path):
            os.fchmod(self._descriptor, mode & _KEPT_MODE)
            os.utime(self._descriptor, (mtime, mtime))

    def put_link(self, name: str, points_to: str) -> None:
        """Make a symbolic link, in place of a file or link that is there."""
        with _calling("make the link", self.path / name), self._part(name) as part:
            os.symlink(points_to, part, dir_fd=self._descriptor)

    def put(self, name: str, pieces: Iterable[bytes], *, mode: int, mtime: int) -> None:
        """Write a file, which appears when it is whole; blocks of zeros become holes.

        Raises:
            ResourceError: There is no room.
            ConflictError: There is a folder of that name.
        """
        with _calling("write", self.path / name), self._part(name) as part:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(part, flags, 0o600, dir_fd=self._descriptor)
            with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor
                for piece in pieces:
                    if piece.count(0) == len(piece):
                        file.seek(len(piece), os.SEEK_CUR)
                    else:
                        _write_all(file.fileno(), piece)
                file.truncate(file.tell())
                os.fchmod(descriptor, mode & _KEPT_MODE)
                os.utime(descriptor, (mtime, mtime))

    @contextmanager
    def _part(self, name: str) -> Iterator[str]:
        part = part_name(name)
        try:
            yield part
            os.replace(part, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=self._descriptor)
            raise


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
