"""Folders of backups, which need no host: listed, verified, pruned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vmctl.backing_up.chains import problem_of
from vmctl.backing_up.manifest import Backup
from vmctl.backing_up.restoring import choose_machine
from vmctl.backing_up.target import Damaged, Known, MachineFolder, Target
from vmctl.backing_up.verifying import Verified, Verifier
from vmctl.imaging import bundle
from vmctl.imaging.scratch import saying_when_full, scratch_folder
from vmctl.progress import ProgressCallback, Reporter
from vmctl.retention import Retention, keep

__all__ = ["Backup", "Backups", "Pruned", "Retention", "Verified"]


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What became of one backup.

    Attributes:
        id: Its ID.
        machine: The machine's name when it was made.
        uuid: The machine's UUID.
        kept: By which rules it is kept: ``last``, ``hourly``, ``daily``, ``weekly``; ``needed``,
            where one that is kept goes on from it. Empty: it is removed.
    """

    id: str
    machine: str
    uuid: str
    kept: tuple[str, ...]


class Backups:
    """A folder of backups, that `VM.backup` made.

    Args:
        path: The folder.

    Raises:
        NotFoundError: It is none.
        UnsupportedError: A newer vmctl made it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._target = Target.open(Path(path).absolute())

    @property
    def path(self) -> Path:
        """The folder."""
        return self._target.path

    def _folders(self, machine: str | None) -> list[MachineFolder]:
        if machine is not None:
            return [choose_machine(self._target, machine, None)]
        return self._target.machines()

    def list(self, machine: str | None = None) -> Sequence[Backup]:
        """Return the backups, of each machine the oldest first.

        Args:
            machine: The UUID of a machine, or its name at its last backup; None for all.

        Raises:
            NotFoundError: There is none of that machine.
        """
        found = []
        for folder in self._folders(machine):
            backups = folder.backups()
            for entry in backups:
                problem = problem_of(backups, entry)
                if isinstance(entry, Damaged):
                    found.append(Backup(id=entry.id, uuid=folder.uuid, problem=problem))
                else:
                    found.append(Backup.of(entry.manifest, problem=problem))
        return found

    def verify(
        self,
        machine: str | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the field's own word
        progress: ProgressCallback | None = None,
    ) -> Sequence[Verified]:
        """Read backups, and say of each whether it can be restored; nothing is restored.

        Args:
            machine: As for `list`.
            id: Only this one, with all that it goes on from.
            progress: Told of the one phase, ``verify``.

        Raises:
            NotFoundError: There is no such backup.
        """
        folders = self._folders(machine)
        if id is not None:
            folders = [choose_machine(self._target, machine, id)]
        found = []
        with Reporter(machine or self.path.name, progress).phase("verify") as phase:
            for folder in folders:
                backups = folder.backups()
                verifier = Verifier(phase)
                for entry in backups:
                    if id is None or entry.folder.name == id:
                        problem = verifier.problem_of(backups, entry)
                        found.append(
                            Verified(
                                id=entry.folder.name,
                                machine=_machine_of(entry),
                                uuid=folder.uuid,
                                problem=problem,
                            )
                        )
        return found

    def prune(
        self, rules: Retention, machine: str | None = None, *, dry_run: bool = False
    ) -> Sequence[Pruned]:
        """Remove the backups that no rule keeps, and that none that is kept needs.

        What an incremental one goes on from stays as long as that one does. Of each machine the
        newest backup that can be read stays, so that the next goes on from it. One whose manifest
        can't be read stays as well, for people to look at.

        Args:
            rules: How many are kept, of each machine.
            machine: As for `list`.
            dry_run: Only say what would be.

        Raises:
            ConflictError: Somebody is making or removing backups of that machine.
            NotFoundError: There is none of that machine.
        """
        found = []
        for folder in self._folders(machine):
            if dry_run:
                found += _pruned(folder, _kept(folder.backups(), rules))
                continue
            with folder.locked():
                folder.remove_unfinished()
                done = _pruned(folder, _kept(folder.backups(), rules))
                # What goes on from another one goes first: whenever this ends, no link is missing.
                for entry in reversed(done):
                    if not entry.kept:
                        folder.remove(folder.path / entry.id)
                found += done
        return found

    @staticmethod
    def verify_stream(
        source: BinaryIO, *, name: str = "stdin", progress: ProgressCallback | None = None
    ) -> Verified:
        """Read a backup that was written to a stream, and see that all of it is what it was.

        Args:
            source: The open file.
            name: What to call it.
            progress: Told of the one phase, ``verify``.

        Raises:
            ImageError: It is no backup, was cut off or changed.
            ResourceError: There is no room for unpacking it.
        """
        reader = bundle.Reader(source, name=name)
        with (
            Reporter(name, progress).phase("verify") as phase,
            saying_when_full("the backup"),
            scratch_folder() as scratch,
        ):
            reader.unpack(scratch, phase)
        return Verified(id="", machine=str(reader.manifest.spec.get("name", "")), uuid="")


def _machine_of(entry: Known | Damaged) -> str:
    return "" if isinstance(entry, Damaged) else entry.manifest.machine


def _pruned(folder: MachineFolder, kept: dict[str, tuple[str, ...]]) -> list[Pruned]:
    return [
        Pruned(
            id=entry.folder.name,
            machine=_machine_of(entry),
            uuid=folder.uuid,
            kept=kept.get(entry.folder.name, ()),
        )
        for entry in folder.backups()
    ]


def _kept(backups: Sequence[Known | Damaged], rules: Retention) -> dict[str, tuple[str, ...]]:
    known = {entry.id: entry for entry in backups if isinstance(entry, Known)}
    # IDs are in order even if the clock was set back; those of a clock that was ahead would stay.
    times = [(backup, known[backup].manifest.created) for backup in sorted(known)]
    kept = keep(times, rules, in_order=True)
    if known:
        kept.setdefault(max(known), ("last",))
    # From the newest on, so that what is needed by what is needed is needed, too.
    for backup in sorted(known, reverse=True):
        parent = known[backup].manifest.parent
        if backup in kept and parent is not None and parent.id in known:
            kept.setdefault(parent.id, ("needed",))
    kept |= {entry.id: ("damaged",) for entry in backups if isinstance(entry, Damaged)}
    return kept
