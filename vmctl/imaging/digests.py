"""What was found in image files before, so that a file is read once and not at every launch."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Seen", "cache_folder", "recall", "remember"]

# A file that was written a moment ago may be written again within the clock's grain.
_GRAIN_NS = 2_000_000_000
# Raised whenever the inspection learns to refuse more: what it let pass before is looked at again.
_VERSION = 5


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the inspection of a file came to.

    Attributes:
        digest: SHA-256 of the file, in hexadecimal.
        format: One of `vmctl.imaging.inspection.FORMATS`.
        virtual_size: Bytes a guest sees.
        recognised: Whether the format was seen in the file; False for raw bytes that were declared.
    """

    digest: str
    format: str
    virtual_size: int
    recognised: bool


def cache_folder() -> Path:
    """Return the folder of the user's that vmctl's caches are in."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vmctl"


def recall(file: Path, status: os.stat_result) -> Seen | None:
    """Return what was found in the file, if it is still the one that was looked at."""
    try:
        entry = json.loads(_entry(file).read_text(encoding="utf-8"))
        if entry["version"] != _VERSION or entry["stamp"] != _stamp(file, status):
            return None
        return Seen(**entry["seen"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember(file: Path, status: os.stat_result, seen: Seen) -> None:
    """Keep what was found in a file. It is only a cache: what can't be written is found again."""
    if time.time_ns() - status.st_ctime_ns < _GRAIN_NS:
        return
    entry = _entry(file)
    content = {"version": _VERSION, "stamp": _stamp(file, status), "seen": asdict(seen)}
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=entry.parent, delete=False, encoding="utf-8"
        ) as temporary:
            json.dump(content, temporary)
        Path(temporary.name).replace(entry)


def _stamp(file: Path, status: os.stat_result) -> dict[str, str | int]:
    """Return what says that a file is still the one that was read."""
    return {
        "path": str(file.resolve()),
        "size": status.st_size,
        "mtime": status.st_mtime_ns,
        "ctime": status.st_ctime_ns,
        "inode": status.st_ino,
    }


def _entry(file: Path) -> Path:
    name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:32]
    return cache_folder() / "digests" / f"{name}.json"
