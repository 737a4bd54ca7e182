"""A backup made into a machine: a new one, or the one that it was made of."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from vmctl import launch
from vmctl.backing_up.chains import chain_of, find, fitting_disks
from vmctl.backing_up.manifest import BackupFile
from vmctl.backing_up.target import Known, MachineFolder, Target
from vmctl.backing_up.verifying import check_links
from vmctl.errors import (
    ImageError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from vmctl.hypervisor.domains import Domain
from vmctl.imaging.bundle import BundledFile, Manifest
from vmctl.imaging.conversion import check_once
from vmctl.imaging.flattening import flatten
from vmctl.imaging.inspection import Image, inspect
from vmctl.imaging.scratch import refuse_without_room
from vmctl.progress import Phase, ProgressCallback, Reporter
from vmctl.transfer import importing
from vmctl.transfer.bundled import Bundle
from vmctl.transfer.source import portable_spec

__all__ = ["Chain", "choose_machine", "open_chain", "restore_anew"]

_SLACK = 16 << 20


class Chain(Bundle):
    """A backup with all that it is made of, as what it would become."""

    kind = "backup"

    def __init__(self, links: Sequence[Known]) -> None:
        self.links = tuple(links)
        self.last = links[-1].manifest
        self._file = None
        self._disks = fitting_disks(links)
        self._boot: dict[str, Path] = {}
        self._fits_firmware = False
        try:
            spec = portable_spec(self.last.spec, list(self._disks))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ImageError(
                f"the spec in the backup {self.last.id} does not fit its disks",
                details=str(error),
                hint="restore an earlier backup",
            ) from error
        self._manifest = Manifest(
            spec=spec,
            files=tuple(self._bundled()),
            host_key=self.last.host_key,
            ssh_user=self.last.ssh_user,
            instance_id=self.last.instance_id,
        )
        self._seen = self._stamps()

    def _bundled(self) -> list[BundledFile]:
        found = [
            BundledFile(
                role="disk",
                size=file.size,
                target=target,
                format="qcow2",
                virtual_size=file.virtual_size,
            )
            for target, (_link, file) in self._disks.items()
        ]
        found += [
            BundledFile(role=file.role, size=file.size, target=file.target)
            for file in self.last.files
            if file.role in {"nvram", "kernel", "initrd"}
        ]
        return found

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = []
        for link in self.links:
            for file in link.manifest.files:
                try:
                    status = (link.folder / file.name).stat()
                except OSError as error:
                    raise ImageError(
                        f"{link.id}/{file.name} is not there",
                        details=error.strerror or "",
                        hint="put it back where it was, or restore an earlier backup",
                    ) from error
                found.append((status.st_size, status.st_mtime_ns, status.st_ino))
        return found

    def check(self, phase: Phase) -> None:
        """See that every file is what it was when it was backed up.

        Raises:
            ImageError: One is not.
        """
        check_links(self.links, phase)

    def disks(self, scratch: Path, phase: Phase) -> tuple[Image | None, ...]:
        """Write each disk, as it was, into one file."""
        self.check(phase)
        found: list[Image | None] = []
        for target in self._disks:
            path = self.disk(target, scratch, phase)
            found.append(inspect(path, format="qcow2", phase=phase))
        for file in self.last.files:
            if file.role in {"nvram", "kernel", "initrd"}:
                shutil.copyfile(self.links[-1].folder / file.name, scratch / file.name)
                self._boot[file.role] = scratch / file.name
        self.refuse_changed()
        return tuple(found)

    def refuse_changed(self) -> None:
        """See that no file was changed since it was checked.

        Raises:
            ImageError: One was.
        """
        if self._stamps() != self._seen:
            raise ImageError(
                f"the backup {self.last.id} was changed while it was read",
                hint="leave the folder alone, and restore it again",
            )

    @property
    def by_target(self) -> dict[str, BackupFile]:
        """Its disks, as they were last: each by its name on its bus."""
        return {target: file for target, (_link, file) in self._disks.items()}

    def disk(self, target: str, scratch: Path, phase: Phase, *, form: str = "qcow2") -> Path:
        """Write one disk into a file of the scratch folder, as qcow2 or raw."""
        name = f"disk-{target}.qcow2"
        newest_first = [
            link.folder / name
            for link in reversed(self.links)
            if any(file.target == target for file in link.manifest.disks)
        ]
        size = sum(path.stat().st_size for path in newest_first)
        refuse_without_room(scratch, size + _SLACK, f"the disk {target} of the backup")
        path = scratch / f"disk-{target}.{form}"
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        os.close(handle)
        flatten(
            [(layer, "qcow2") for layer in newest_first],
            path,
            form,
            options="compat=1.1" if form == "qcow2" else "",
            phase=phase,
        )
        if form == "raw":
            return path
        image = inspect(path, format="qcow2")
        if image.virtual_size != self._disks[target][1].virtual_size:
            raise ImageError(
                f"the disk {target} of the backup {self.last.id} is not of its size",
                hint="restore an earlier backup",
            )
        check_once(image)
        return path


def choose_machine(target: Target, machine: str | None, backup: str | None) -> MachineFolder:
    """Return the part of a folder of backups that is meant.

    Args:
        target: The folder.
        machine: The machine's UUID, or its name at its last backup; None: the only one there is,
            or the one that has the backup.
        backup: The backup's ID, if one is named.

    Raises:
        NotFoundError: There is none.
        UsageError: Several could be meant.
    """
    found = []
    others: list[str] = []
    for folder in target.machines():
        backups = folder.backups()
        if not backups:
            continue
        known = [entry for entry in backups if isinstance(entry, Known)]
        called = known[-1].manifest.machine if known else ""
        if machine is not None and machine not in {folder.uuid, called}:
            others.append(called or folder.uuid)
            continue
        names = [entry.folder.name for entry in backups]
        if backup is not None and backup not in names:
            others += names
            continue
        found.append((folder, called))
    if len(found) == 1:
        return found[0][0]
    if not found:
        raise _no_backup(target, machine, backup, others)
    raise UsageError(
        f"there are backups of several machines in {str(target.path)!r}",
        details="\n".join(f"{folder.uuid} {called}" for folder, called in found),
        hint="say which: `--machine NAME-OR-UUID`",
    )


def _no_backup(
    target: Target, machine: str | None, backup: str | None, others: Sequence[str]
) -> NotFoundError:
    wanted = backup if backup is not None else machine or ""
    what = "there is no backup" + ("" if backup is None else f" {backup!r}")
    of = "" if machine is None else f" of {machine!r}"
    near = difflib.get_close_matches(wanted, dict.fromkeys(others), n=3)
    return NotFoundError(
        f"{what}{of} in {str(target.path)!r}",
        hint=f"did you mean {' or '.join(near)}?"
        if near
        else f"`vmctl backup list {target.path}` shows what there is",
    )


def open_chain(place: Path, machine: str | None, backup: str | None) -> Chain:
    """Return a backup with all that it is made of, as far as manifests tell."""
    target = Target.open(place)
    backups = choose_machine(target, machine, backup).backups()
    return Chain(chain_of(backups, find(backups, backup)))


def refuse_architecture(chain: Chain, around: launch.Surroundings) -> None:
    """Refuse a machine that this host has no QEMU for.

    Raises:
        UnsupportedError: It is so.
    """
    wanted = chain.last.architecture
    if wanted not in around.facts.emulators:
        raise UnsupportedError(
            f"the backup {chain.last.id} is of an {wanted[:40]} machine, and the host has QEMU for "
            f"{', '.join(sorted(around.facts.emulators))}",
            hint="restore it at a host that has QEMU for it",
        )


def restore_anew(
    chain: Chain,
    *,
    name: str | None,
    review: importing.Review | None,
    around: launch.Surroundings,
    progress: ProgressCallback | None,
) -> Domain:
    """Make a new machine of a backup; see `Host.restore`."""
    refuse_architecture(chain, around)
    label = name or chain.last.machine
    return importing.make(
        chain,
        label,
        name=name,
        spec=None,
        review=review,
        around=around,
        reporter=Reporter(label, progress),
        progress=progress,
    )
