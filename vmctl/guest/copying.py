"""Files and trees between this machine and a guest: by SFTP, and by the agent where SSH is away."""

from __future__ import annotations

import os
import posixpath
import stat
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from vmctl.errors import ConflictError, GuestError, NotFoundError, UsageError
from vmctl.guest.local_files import (
    Entry,
    Folder,
    deny_special,
    mode_of,
    pieces_of,
    pieces_of_file,
    scan,
)
from vmctl.guest.sftp import Facts, Remote
from vmctl.progress import Phase

__all__ = ["CopiedFiles", "Meter", "check_source", "receive", "send"]

_DEEPEST = 200
_NEW_FILE_MODE = 0o644


@dataclass(frozen=True, kw_only=True)
class CopiedFiles:
    """What was copied.

    Attributes:
        files: How many files; links and folders are not counted.
        bytes: Their bytes.
        via: The way it went.
    """

    files: int
    bytes: int
    via: Literal["ssh", "agent"]


class Meter:
    """Counts what goes by, and reports it."""

    def __init__(self, phase: Phase, total: int) -> None:
        self._phase = phase
        self._total = total
        self.files = 0
        self.bytes = 0

    def file(self, name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Pass on the pieces of one file."""
        shown = self._fraction()
        self._phase.update(name, shown)
        for piece in pieces:
            yield piece
            self.bytes += len(piece)
            self._phase.update(name, self._fraction())
        self.files += 1

    def _fraction(self) -> float | None:
        # A file that grows is found out at its end.
        return min(1.0, self.bytes / self._total) if self._total else None

    def copied(self, via: Literal["ssh", "agent"]) -> CopiedFiles:
        """Return the result."""
        return CopiedFiles(files=self.files, bytes=self.bytes, via=via)


def check_source(source: Path, *, recursive: bool) -> None:
    """Refuse what can't be copied into a guest, before any way into it is tried.

    Raises:
        NotFoundError: There is nothing.
        UsageError: It is a folder, without ``recursive``, or nothing that could be copied.
    """
    mode = mode_of(source)
    deny_special(str(source), mode)
    if stat.S_ISDIR(mode):
        _check_recursive(str(source), recursive=recursive)


def send(
    remote: Remote, source: Path | BinaryIO, target: str, *, recursive: bool, phase: Phase
) -> CopiedFiles:
    """Copy into a guest; see `VM.copy_to`."""
    path = _in_guest(target)
    if not isinstance(source, Path):
        meter = Meter(phase, 0)
        there = _file_place(remote, path, "")
        pieces = meter.file(there, pieces_of_file(source))
        remote.put(there, pieces, mode=_NEW_FILE_MODE, mtime=int(time.time()))
        _sweep(remote, there)
        return meter.copied("ssh")
    entries = scan(source)
    meter = Meter(phase, sum(entry.size for entry in entries if stat.S_ISREG(entry.mode)))
    top = entries[0]
    if not stat.S_ISDIR(top.mode):
        there = _file_place(remote, path, source.name)
        _send_file(remote, source, there, top, meter)
        _sweep(remote, there)
        return meter.copied("ssh")
    _check_recursive(str(source), recursive=recursive)
    found = remote.stat(path)
    if found is not None and found.is_folder:
        path = posixpath.join(path, source.name)
    elif found is None and target.endswith("/"):
        path = path.rstrip("/")
    _send_tree(remote, source, path, entries, meter)
    return meter.copied("ssh")


def _send_tree(
    remote: Remote, source: Path, path: str, entries: Sequence[Entry], meter: Meter
) -> None:
    names: dict[tuple[str, ...], set[str]] = defaultdict(set)
    known = []
    for entry in entries:
        there = posixpath.join(path, *entry.place)
        here = source.joinpath(*entry.place)
        if entry.place:
            names[entry.place[:-1]].add(entry.place[-1])
        if stat.S_ISDIR(entry.mode):
            if not remote.make_folder(there):
                known.append(entry.place)
        elif stat.S_ISLNK(entry.mode):
            remote.put_link(there, str(here.readlink()))
        else:
            _send_file(remote, here, there, entry, meter)
    for place in known:
        remote.sweep(posixpath.join(path, *place), names[place])
    # The deepest first: a folder's time changes with what is in it, and its mode may forbid it.
    for entry in reversed(entries):
        if stat.S_ISDIR(entry.mode):
            there = posixpath.join(path, *entry.place)
            remote.set_times_and_mode(there, mode=entry.mode, mtime=entry.mtime)


def _sweep(remote: Remote, there: str) -> None:
    folder, name = posixpath.split(there)
    remote.sweep(folder or ".", {name})


def _send_file(remote: Remote, here: Path, there: str, entry: Entry, meter: Meter) -> None:
    pieces = meter.file(str(here), pieces_of(here))
    remote.put(there, pieces, mode=entry.mode, mtime=entry.mtime)


def _file_place(remote: Remote, path: str, name: str) -> str:
    """Return where a file goes: into a folder, or in the place of a file, through a link to it."""
    found = remote.stat(path)
    if found is None:
        folder = path if path.endswith("/") else posixpath.dirname(path)
        # What is relative lies in the home folder.
        if folder and remote.stat(folder) is None:
            raise NotFoundError(
                f"there is no folder {folder} in '{remote.machine}'",
                hint=f"make it there first: `vmctl exec {remote.machine} -- mkdir -p {folder}`",
            )
        return path
    if found.is_folder:
        if not name:
            raise UsageError(
                f"{path} in '{remote.machine}' is a folder",
                hint="give the file's name as well",
            )
        path = posixpath.join(path, name)
        found = remote.stat(path)
    if found is None:
        return path
    if not found.is_file:
        raise ConflictError(
            f"{path} in '{remote.machine}' is there, and is no file",
            hint="remove it there, or copy to another place",
        )
    return remote.resolved(path)


def receive(
    remote: Remote, source: str, target: Path | BinaryIO, *, recursive: bool, phase: Phase
) -> CopiedFiles:
    """Copy out of a guest; see `VM.copy_from`."""
    path = _in_guest(source)
    top = remote.stat(path)
    if top is None:
        raise NotFoundError(
            f"there is no {path} in '{remote.machine}'",
            hint=f"see what is there: `vmctl exec {remote.machine} -- ls -la`",
        )
    deny_special(f"{path} in '{remote.machine}'", top.mode)
    if not top.is_folder:
        meter = Meter(phase, top.size)
        pieces = meter.file(path, remote.pieces(path))
        store(pieces, target, posixpath.basename(path), top)
        return meter.copied("ssh")
    _check_recursive(path, recursive=recursive)
    if not isinstance(target, Path):
        raise UsageError(f"{path} is a folder", hint="only one file can be written to stdout")
    entries = list(_scan(remote, path, top))
    meter = Meter(phase, sum(entry.size for entry in entries if stat.S_ISREG(entry.mode)))
    name = posixpath.basename(path.rstrip("/"))
    if target.is_dir() and name not in {"", ".", ".."}:
        target /= name
    tree = _Tree(remote, path, target.absolute().name)
    with Folder.at(target.absolute().parent) as above:
        for entry in entries:
            tree.receive(above, entry, meter)
        for entry in reversed(entries):
            tree.finish(above, entry)
    return meter.copied("ssh")


def store(
    pieces: Iterable[bytes], target: Path | BinaryIO, name: str, facts: Facts | Entry
) -> None:
    """Write one file of the guest's to this machine.

    Args:
        pieces: What is in it.
        target: A folder, the file's new place, or an open file.
        name: What it is called in the guest; for a folder.
        facts: Its mode and time.
    """
    if not isinstance(target, Path):
        for piece in pieces:
            target.write(piece)
        target.flush()
        return
    place = target / name if target.is_dir() else target
    # A link that was named is followed, as by cp; what is no file is never replaced.
    place = Path(os.path.realpath(place))
    if place.exists() and not place.is_file():
        raise ConflictError(
            f"{place} is there, and is no file", hint="give another name, or - for stdout"
        )
    with Folder.at(place.parent) as folder:
        folder.put(place.name, pieces, mode=facts.mode, mtime=facts.mtime)


@dataclass(frozen=True)
class _Tree:
    """A tree in a guest, and the name that its top has here."""

    remote: Remote
    path: str
    name: str

    def receive(self, above: Folder, entry: Entry, meter: Meter) -> None:
        """Copy one entry, whose folder is there already."""
        there = posixpath.join(self.path, *entry.place)
        with ExitStack() as opened:
            *folders, own = self.name, *entry.place
            folder = _below(opened, above, folders)
            if stat.S_ISDIR(entry.mode):
                opened.enter_context(folder.below(own))
            elif stat.S_ISLNK(entry.mode):
                folder.put_link(own, self.remote.link_target(there))
            else:
                pieces = meter.file(there, self.remote.pieces(there))
                folder.put(own, pieces, mode=entry.mode, mtime=entry.mtime)

    def finish(self, above: Folder, entry: Entry) -> None:
        """Give a folder its mode and time, when nothing is written into it any more."""
        if stat.S_ISDIR(entry.mode):
            with ExitStack() as opened:
                folder = _below(opened, above, (self.name, *entry.place))
                folder.set_times_and_mode(mode=entry.mode, mtime=entry.mtime)


def _below(opened: ExitStack, above: Folder, names: Iterable[str]) -> Folder:
    for name in names:
        above = opened.enter_context(above.below(name))
    return above


def _scan(remote: Remote, path: str, top: Facts) -> Iterator[Entry]:
    yield Entry(place=(), mode=top.mode, size=top.size, mtime=top.mtime)
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        place = waiting.pop()
        if len(place) > _DEEPEST:
            raise GuestError(
                f"the folders in {path} of '{remote.machine}' are nested deeper than {_DEEPEST}",
                hint="make an archive of them in the guest, and copy that",
            )
        folder = posixpath.join(path, *place)
        for name, facts in remote.listing(folder):
            deny_special(f"{posixpath.join(folder, name)} in '{remote.machine}'", facts.mode)
            yield Entry(place=(*place, name), mode=facts.mode, size=facts.size, mtime=facts.mtime)
            if facts.is_folder:
                waiting.append((*place, name))


def _in_guest(path: str) -> str:
    """Return the path as SFTP wants it, where what is relative is below the home folder."""
    if "\0" in path:
        raise UsageError("a path can't have a NUL in it", hint="give another path")
    return path.removeprefix("~/") if path not in {"", "~", "~/"} else "."


def _check_recursive(path: str, *, recursive: bool) -> None:
    if not recursive:
        raise UsageError(
            f"{path} is a folder", hint="copy it with all that is in it: --recursive (-r)"
        )
