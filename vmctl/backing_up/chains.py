"""Which backups go on from which, and what the next one can go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmctl.backing_up.manifest import BackupFile
from vmctl.backing_up.target import Damaged, Known
from vmctl.errors import ImageError, NotFoundError, SpecError
from vmctl.render.domain import disk_targets
from vmctl.spec import VMSpec

__all__ = [
    "Choice",
    "DiskNow",
    "MachineNow",
    "chain_of",
    "choose",
    "disks_of",
    "find",
    "fitting_disks",
    "problem_of",
]

# A restore needs every link, so a chain without end is one that breaks some day.
_LONGEST = 100


def find(backups: Sequence[Known | Damaged], backup: str | None) -> Known:
    """Return the backup of an ID, or the newest one.

    Raises:
        NotFoundError: There is none.
        ImageError: Its manifest is damaged.
    """
    if backup is None:
        found = backups[-1] if backups else None
    else:
        found = next((entry for entry in backups if entry.folder.name == backup), None)
    if found is None:
        raise NotFoundError(
            "there is no backup" + (f" {backup[:40]!r}" if backup else ""),
            hint="`vmctl backup list` shows what there is",
        )
    if isinstance(found, Damaged):
        raise found.error
    return found


def chain_of(backups: Sequence[Known | Damaged], last: Known) -> tuple[Known, ...]:
    """Return what a backup is made of: the full one first, itself at the end.

    Raises:
        ImageError: A link is missing, is damaged, or is another one than it was.
    """
    by_id = {entry.folder.name: entry for entry in backups}
    found = [last]
    while (parent := found[-1].manifest.parent) is not None:
        below = by_id.get(parent.id)
        if below is None:
            raise ImageError(
                f"the backup {last.id} needs {parent.id}, which is not there",
                hint="put it back where it was, or restore an earlier backup",
            )
        if isinstance(below, Damaged):
            raise ImageError(
                f"the backup {last.id} needs {parent.id}, which is damaged",
                details=str(below.error),
                hint="restore an earlier backup: `vmctl backup verify` says which are whole",
            )
        if below.sha256 != parent.sha256 or below.id >= found[-1].id:
            raise ImageError(
                f"the backup {last.id} needs {parent.id}, and what is there is another one",
                hint="put back the one that was there, or restore an earlier backup",
            )
        found.append(below)
    return tuple(reversed(found))


def problem_of(backups: Sequence[Known | Damaged], entry: Known | Damaged) -> str:
    """Return what is wrong with a backup, as far as manifests and sizes tell; empty for nothing."""
    if isinstance(entry, Damaged):
        return entry.error.brief
    try:
        links = chain_of(backups, entry)
    except ImageError as error:
        return error.brief
    for link in links:
        for file in link.manifest.files:
            path = link.folder / file.name
            if not path.is_file() or path.is_symlink() or path.stat().st_size != file.size:
                return f"{link.id}/{file.name} is not there, or not all of it"
    return ""


@dataclass(frozen=True, kw_only=True)
class DiskNow:
    """A disk of the machine as it is now.

    Attributes:
        target: Its name on its bus.
        format: How it is written on the host.
        sources: Its files on the host, the uppermost first.
        read_only: Whether the machine can't write to it.
    """

    target: str
    format: str
    sources: tuple[str, ...]
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class MachineNow:
    """What of a machine decides whether changes alone can be backed up.

    Attributes:
        disks: Its disks, without drives.
        checkpoints: The names of its checkpoints.
        internal_snapshots: Whether it has snapshots that lie in its disks.
    """

    disks: tuple[DiskNow, ...]
    checkpoints: tuple[str, ...]
    internal_snapshots: bool


@dataclass(frozen=True)
class Choice:
    """What kind of a backup is made.

    Attributes:
        parent: What it goes on from; None for a full one.
        why: Why it is full; empty for an incremental one.
        tracks: Whether the disks keep track from here on, so that the next can go on from it.
    """

    parent: Known | None
    why: str
    tracks: bool


def choose(
    now: MachineNow, backups: Sequence[Known | Damaged], *, full: bool, prefix: str
) -> Choice:
    """Decide whether a backup can go on from the last one, and say why it can't.

    Args:
        now: The machine.
        backups: What there is of it in the folder.
        full: Whether a full one is asked for.
        prefix: What the names of the folder's checkpoints begin with.
    """
    if untracked := _why_untracked(now):
        return Choice(None, untracked, tracks=False)
    if full:
        return Choice(None, "it was asked for", tracks=True)
    if not backups:
        return Choice(None, "it is the first one of this machine in this folder", tracks=True)
    last = backups[-1]
    if isinstance(last, Damaged) or problem_of(backups, last):
        return Choice(None, "the one before it is damaged", tracks=True)
    if why := _why_not_on(now, last, backups, prefix):
        return Choice(None, why, tracks=True)
    return Choice(last, "", tracks=True)


def _why_untracked(now: MachineNow) -> str:
    for disk in now.disks:
        if disk.format != "qcow2" and not disk.read_only:
            return (
                f"the disk {disk.target} is {disk.format}, and only a qcow2 one keeps track of "
                "what is changed"
            )
    if now.internal_snapshots:
        # QEMU refuses to go back to one while a disk keeps track.
        return "snapshots lie in its disks, which can't keep track of what is changed beside them"
    return ""


def _why_not_on(
    now: MachineNow, last: Known, backups: Sequence[Known | Damaged], prefix: str
) -> str:
    manifest = last.manifest
    if not manifest.checkpoint:
        return "the disks kept no track when the one before it was made"
    if manifest.checkpoint not in now.checkpoints or not manifest.checkpoint.startswith(prefix):
        return (
            "the machine has forgotten what was changed since the one before it: it was restored "
            "or reverted, or another copy of this folder was used"
        )
    before = disks_of(chain_of(backups, last))
    if {name: file.read_only for name, (_link, file) in before.items()} != {
        disk.target: disk.read_only for disk in now.disks
    }:
        return "the machine has other disks than when the one before it was made"
    for disk in now.disks:
        was = before[disk.target][1].sources
        if was[:1] != disk.sources[:1] and not set(was[:1]) & set(disk.sources):
            return f"the disk {disk.target} is another one: it was reverted, restored or merged"
    if len(chain_of(backups, last)) >= _LONGEST:
        return f"the chain before it has {_LONGEST} links"
    return ""


def disks_of(links: Sequence[Known]) -> dict[str, tuple[Known, BackupFile]]:
    """Return the newest file of each disk in a chain, and the link that has it.

    A disk that is never written to is in full backups alone.
    """
    return {file.target: (link, file) for link in links for file in link.manifest.disks}


def fitting_disks(links: Sequence[Known]) -> dict[str, tuple[Known, BackupFile]]:
    """Return the disks of a chain as `disks_of` does, in the order of its spec.

    Raises:
        ImageError: The spec has others, or is none.
    """
    last = links[-1].manifest
    found = disks_of(links)
    try:
        # The machine's own order need not be the spec's.
        targets = disk_targets(VMSpec.from_record(last.spec))
        if set(targets) != set(found):
            raise ValueError(f"it has {', '.join(targets)}, and they are {', '.join(found)}")
    except (ValueError, TypeError, AttributeError, KeyError, SpecError) as error:
        raise ImageError(
            f"the spec in the backup {last.id} does not fit its disks",
            details=str(error),
            hint="restore an earlier backup",
        ) from error
    return {target: found[target] for target in targets}
