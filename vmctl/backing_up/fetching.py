"""Volumes of the host into files of a backup, and their digests on the way."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import Phase

__all__ = ["fetch", "keep"]

_ZEROS = bytes(1 << 20)


def fetch(volume: StoredVolume, path: Path, phase: Phase) -> tuple[int, str]:
    """Write a volume into a new file of this user's alone; what is a hole stays one.

    Args:
        volume: What to read.
        path: The file.
        phase: Told how far it is.

    Returns:
        The file's size in bytes, and its SHA-256.

    Raises:
        OSError: It can't be written.
    """
    whole = max(volume.physical_size(), 1)
    sha256 = hashlib.sha256()
    position = 0
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        for piece in volume.pieces():
            if isinstance(piece, int):
                _hash_zeros(sha256, piece)
                position += piece
            else:
                sha256.update(piece)
                file.seek(position)
                file.write(piece)
                position += len(piece)
            phase.update(f"downloading {path.stem}", min(position / whole, 1.0))
        file.truncate(position)
        file.flush()
        os.fsync(handle)
    return position, sha256.hexdigest()


def _hash_zeros(sha256: hashlib._Hash, count: int) -> None:
    while count:
        piece = _ZEROS[:count]
        sha256.update(piece)
        count -= len(piece)


def keep(content: bytes, path: Path) -> tuple[int, str]:
    """Write what there is already into a new file; see `fetch`."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    return len(content), hashlib.sha256(content).hexdigest()
