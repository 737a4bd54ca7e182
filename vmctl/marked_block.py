"""A part of somebody else's file that is vmctl's: between two marks, and replaced as a whole."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vmctl.errors import ConflictError, UsageError, VmctlError

__all__ = ["write_block"]


def write_block(path: str | os.PathLike[str], text: str, *, label: str) -> bool:
    """Write a block into a file of this machine, in the place of the one of the same label.

    All else in the file stays. Whoever reads it finds the old content or the new, never a part: a
    new file takes the old one's place, with its mode and owner. Without text, the block goes.

    Args:
        path: The file, which need not be there; a link is followed.
        text: What stands between the marks, lines that end.
        label: What the block is called, on one line.

    Returns:
        Whether the file changed.

    Raises:
        UsageError: The label is none, or the file is no text.
        ConflictError: A mark in the file has no other half.
        VmctlError: The file can't be read or written.
    """
    if not label.isprintable() or not label.strip():
        raise UsageError(f"{label[:60]!r} can't label a block", hint="use plain text on one line")
    place = Path(path).expanduser().resolve()
    try:
        with _alone_in(place.parent):
            before = place.read_text(encoding="utf-8") if place.exists() else ""
            after = _with_block(before, text, label, place)
            if after == before:
                return False
            _replace(place, after)
    except UnicodeDecodeError as error:
        raise UsageError(f"{place} is no text", hint="name a text file") from error
    except OSError as error:
        raise VmctlError(
            f"{place} can't be written: {error.strerror}",
            hint="check the path and its permissions; without a file, it goes to stdout",
        ) from error
    return True


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let others of vmctl's wait who write into the same folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _with_block(before: str, text: str, label: str, place: Path) -> str:
    begin, end = f"# BEGIN {label}", f"# END {label}"
    lines = before.splitlines(keepends=True)
    marks = [line.strip() for line in lines if line.strip() in {begin, end}]
    if marks not in ([], [begin, end]):
        raise ConflictError(
            f"{place} has marks of '{label}' that don't belong together",
            details="\n".join(marks),
            hint="remove those lines, and what stands between them, by hand",
        )
    block = [f"{begin}\n", *text.splitlines(keepends=True), f"{end}\n"] if text else []
    if not marks:
        if block and lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        return "".join([*lines, *block])
    places = [index for index, line in enumerate(lines) if line.strip() in {begin, end}]
    return "".join([*lines[: places[0]], *block, *lines[places[1] + 1 :]])


def _replace(place: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            with suppress(FileNotFoundError):
                old = place.stat()
                os.fchmod(file.fileno(), old.st_mode & 0o7777)
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
