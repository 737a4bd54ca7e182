"""One file to a guest or from it by its agent, for a machine without a network.

It goes piece by piece through the agent's channel, as root; trees don't.
"""

from __future__ import annotations

import posixpath
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vmctl.errors import (
    ConflictError,
    GuestError,
    GuestUnreachableError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from vmctl.guest.agent import Agent
from vmctl.guest.copying import CopiedFiles, Meter, store
from vmctl.guest.local_files import deny_special, pieces_of, pieces_of_file, scan
from vmctl.guest.sftp import Facts, is_full, part_name
from vmctl.progress import Phase

__all__ = ["receive", "send"]

_SECONDS = 60.0
_NEW_FILE_MODE = 0o644
# A last block or so can be too small for what was to be written.
_LAST_KIB = 64
# What copies of the same file have left whose clients were killed: nothing was written to it for an
# hour. Its name is that of the part, $2, but for the last 12 characters.
_SWEEP = (
    '{ for left in "${2%????????????}"????????????; do '
    'find "$left" -type f -perm 600 -mmin +60 -exec rm -f {} ";"; done 2>/dev/null; true; }'
)


def send(agent: Agent, source: Path | BinaryIO, target: str, *, phase: Phase) -> CopiedFiles:
    """Copy a file into a guest; see `VM.copy_to`."""
    mode, mtime, name, total = _NEW_FILE_MODE, int(time.time()), "", 0
    if isinstance(source, Path):
        (top, *_others) = scan(source)
        if stat.S_ISDIR(top.mode):
            raise _no_trees(str(source))
        mode, mtime, name, total = stat.S_IMODE(top.mode), top.mtime, source.name, top.size
    place = _place(agent, target, name)
    part = part_name(place)
    meter = Meter(phase, total)
    pieces = pieces_of(source) if isinstance(source, Path) else pieces_of_file(source)
    # Made by this, so that nobody else can read what is in it before it has its mode.
    _run(agent, ["sh", "-c", 'umask 077; : >"$1"', "sh", part], f"write {place}")
    try:
        agent.store(part, meter.file(place, pieces))
        line = 'chmod "$1" "$2" && touch -d "@$3" "$2" && mv -f "$2" "$4"'
        words = ["sh", "-c", f"{line} && {_SWEEP}", "sh", f"{mode:o}", part, str(mtime), place]
        _run(agent, words, f"write {place}")
    except BaseException as error:
        refused = isinstance(error, GuestError) and not isinstance(error, GuestUnreachableError)
        full = refused and _is_full(agent, posixpath.dirname(place))
        try:
            agent.run(["rm", "-f", part], timeout=_SECONDS)
        except GuestError as failure:
            error.add_note(f"{part} is left in '{agent.machine}': {failure.brief}")
        if full:
            raise is_full(agent.machine, place) from error
        raise
    return meter.copied("agent")


def receive(agent: Agent, source: str, target: Path | BinaryIO, *, phase: Phase) -> CopiedFiles:
    """Copy a file out of a guest; see `VM.copy_from`."""
    path = _absolute(source)
    before = _facts(agent, path)
    if before is None:
        raise NotFoundError(
            f"there is no {path} in '{agent.machine}'",
            hint=f"see what is there: `vmctl exec {agent.machine} -- ls -la`",
        )
    if before.is_folder:
        raise _no_trees(path)
    deny_special(f"{path} in '{agent.machine}'", before.mode)
    meter = Meter(phase, before.size)

    def pieces_that_stay() -> Iterator[bytes]:
        yield from meter.file(path, agent.pieces(path))
        if _facts(agent, path) != before or (before.size and meter.bytes != before.size):
            raise ConflictError(
                f"{path} in '{agent.machine}' changed while it was copied",
                hint="copy it again when nobody writes to it",
            )

    store(pieces_that_stay(), target, posixpath.basename(path), before)
    return meter.copied("agent")


def _no_trees(path: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path} is a folder, and the agent copies files only",
        hint="copy it by SSH, or make an archive of it and copy that",
    )


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise UsageError(
            f"{path!r} is no absolute path, which the agent needs",
            hint="the agent has no home folder: give the path from / on",
        )
    return path


def _place(agent: Agent, target: str, name: str) -> str:
    path = _absolute(target)
    found = _facts(agent, path)
    if path.endswith("/") or (found is not None and found.is_folder):
        if not name:
            raise UsageError(
                f"{path} in '{agent.machine}' is a folder", hint="give the file's name as well"
            )
        path = posixpath.join(path, name)
        found = _facts(agent, path)
    if found is not None and not found.is_file:
        raise ConflictError(
            f"{path} in '{agent.machine}' is there, and is no file",
            hint="remove it there, or copy to another place",
        )
    return path


def _run(agent: Agent, words: list[str], doing: str) -> str:
    done = agent.run(words, timeout=_SECONDS)
    if done.exit_status != 0:
        raise GuestError(
            f"could not {doing} in '{agent.machine}'",
            details=done.stderr.strip(),
            hint=f"see what is there: `vmctl exec {agent.machine} -- ls -la`",
        )
    return done.stdout


def _facts(agent: Agent, path: str) -> Facts | None:
    """Return what there is, through links; None when there is nothing."""
    done = agent.run(["stat", "-L", "-c", "%f %s %Y", path], timeout=_SECONDS)
    if done.exit_status != 0:
        return None
    try:
        mode, size, mtime = done.stdout.split()
        return Facts(mode=int(mode, 16), size=int(size), mtime=int(mtime))
    except ValueError as error:
        raise GuestError(
            f"'{agent.machine}' gives no facts of {path}",
            details=done.stdout[:200],
            hint="it needs `stat` of coreutils or busybox",
        ) from error


def _is_full(agent: Agent, folder: str) -> bool:
    try:
        done = agent.run(["df", "-Pk", folder], timeout=_SECONDS)
    except GuestError:
        return False
    # "Filesystem 1024-blocks Used Available Capacity Mounted on"
    columns = (done.stdout.splitlines() or [""])[-1].split()
    return len(columns) > 5 and columns[3].isdigit() and int(columns[3]) < _LAST_KIB
