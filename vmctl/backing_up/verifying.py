"""Backups read again, all of them, and compared with their digests; nothing is restored for it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmctl.backing_up.chains import chain_of, fitting_disks
from vmctl.backing_up.manifest import BackupFile
from vmctl.backing_up.target import Damaged, Known
from vmctl.errors import ImageError, VmctlError
from vmctl.imaging.flattening import check_overlay
from vmctl.imaging.reading import opened, reading
from vmctl.progress import Phase

__all__ = ["Verified", "Verifier", "check_links"]

_CHUNK = 1 << 20
_HINT = "restore an earlier backup: `vmctl backup verify` says which are whole"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What the reading of one backup came to.

    Attributes:
        id: Its ID.
        machine: The machine's name when it was made.
        uuid: The machine's UUID.
        problem: Why it can't be restored; empty if it can.
    """

    id: str
    machine: str
    uuid: str
    problem: str = ""


@dataclass
class Verifier:
    """Reads each file once, however many backups need it."""

    phase: Phase
    _read: dict[Path, str] = field(default_factory=dict)

    def problem_of(self, backups: Sequence[Known | Damaged], entry: Known | Damaged) -> str:
        """Return why a backup can't be restored; empty if it can."""
        if isinstance(entry, Damaged):
            return _sentence(entry.error)
        try:
            links = chain_of(backups, entry)
            fitting_disks(links)
            for link in links:
                for file in link.manifest.files:
                    self._check(link, file)
        except VmctlError as error:
            return _sentence(error)
        return ""

    def _check(self, link: Known, file: BackupFile) -> None:
        path = link.folder / file.name
        if path not in self._read:
            try:
                check_file(link, file, self.phase)
            except VmctlError as error:
                self._read[path] = error.brief
            else:
                self._read[path] = ""
        if self._read[path]:
            raise ImageError(self._read[path], hint=_HINT)


def _sentence(error: VmctlError) -> str:
    return f"{error.brief}: {error.details.splitlines()[0]}" if error.details else error.brief


def check_links(links: Sequence[Known], phase: Phase) -> None:
    """See that all files of a chain are what they were, before anything is made of them.

    Raises:
        ImageError: One is not, or is not there.
    """
    for link in links:
        for file in link.manifest.files:
            check_file(link, file, phase)


def check_file(link: Known, file: BackupFile, phase: Phase) -> None:
    """See that a file is what it was.

    Raises:
        ImageError: It is not.
        NotFoundError: It is not there.
    """
    path = link.folder / file.name
    what = f"{link.id}/{file.name}"
    if path.is_symlink():
        raise ImageError(f"{what} is a link to somewhere else", hint=_HINT)
    with opened(path, "file of a backup") as source, reading(path, "file of a backup"):
        size = os.fstat(source.fileno()).st_size
        if size != file.size:
            raise ImageError(
                f"{what} has {size} bytes, and had {file.size}: it was cut off, or changed",
                hint=_HINT,
            )
        sha256 = hashlib.sha256()
        done = 0
        while piece := source.read(_CHUNK):
            sha256.update(piece)
            done += len(piece)
            phase.update(f"reading {what}", done / max(size, 1))
    if sha256.hexdigest() != file.sha256:
        raise ImageError(f"{what} is not what it was: its digest differs", hint=_HINT)
    if file.role == "disk" and check_overlay(path, "qcow2") != file.virtual_size:
        raise ImageError(f"{what} is a disk of another size than it was", hint=_HINT)
