"""A backup made: taken on the host, brought into a folder or a stream, and counted at the end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from vmctl import backup_traces, detours, power, settling
from vmctl.backing_up import fetching
from vmctl.backing_up.chains import Choice, DiskNow, MachineNow, choose
from vmctl.backing_up.manifest import Backup, BackupFile, Kind, Manifest, Parent, next_id
from vmctl.backing_up.taking import Taken, Wishes, taken
from vmctl.backing_up.target import Damaged, Known, MachineFolder, Target, writing
from vmctl.backup_traces import Traces
from vmctl.errors import (
    ConflictError,
    ImageError,
    ResourceError,
    UnsupportedError,
    VmctlError,
    WrongStateError,
)
from vmctl.hypervisor import backups, blockjobs
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.exports import refuse_while_exported
from vmctl.hypervisor.metadata import Record, Role
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.imaging.bundle import BundledFile, Writer
from vmctl.imaging.bundle import Manifest as BundleManifest
from vmctl.imaging.flattening import check_overlay
from vmctl.imaging.inspection import inspect
from vmctl.imaging.scratch import saying_when_full, scratch_folder
from vmctl.progress import Phase, ProgressCallback, Reporter, being_undone
from vmctl.render.domain import disk_targets
from vmctl.spec import VMSpec
from vmctl.transfer.source import portable_spec

__all__ = ["to_folder", "to_stream"]

# What nobody's folder has as its ID: of a stream, nothing goes on.
_NO_TARGET = "0" * 16
# Checkpoints of other folders that a machine keeps; each costs a little at every write.
_MOST_OTHERS = 8


def to_folder(
    domain: Domain,
    record: Record,
    place: Path,
    *,
    full: bool,
    wishes: Wishes,
    progress: ProgressCallback | None,
) -> Backup:
    """Back a machine up into a folder; see `VM.backup`."""
    seen = _ready(domain, record)
    record = seen.record
    target = Target.open_or_make(place)
    folder = target.machine(domain.uuid)
    with folder.locked():
        folder.remove_unfinished()
        known = folder.backups()
        _refuse_newer(known)
        backup = next_id(datetime.now(UTC), known[-1].folder.name if known else "")
        traces = Traces(uuid=domain.uuid, target=target.id, backup=backup)
        prefix = f"vmctl.{target.id}."

        def decide(now: MachineNow) -> Choice:
            _forget_uncounted(domain, now.checkpoints, known, prefix)
            return choose(now, known, full=full, prefix=prefix)

        reporter = Reporter(domain.name, progress)
        with folder.beginning(backup) as own:
            with taken(
                domain,
                seen,
                traces,
                decide=decide,
                goes_to=folder.path,
                wishes=wishes,
                reporter=reporter,
            ) as found:
                with reporter.phase("download") as phase, writing(place):
                    files = tuple(_bring(domain, record, found, own, phase))
                manifest = _manifest(domain, record, found, files, traces)
            made = _commit(domain, folder, own, manifest)
    _forget_older(domain, made, prefix)
    return Backup.of(made.manifest)


def _ready(domain: Domain, record: Record) -> detours.Seen:
    """Return a machine that can be backed up now, as it is.

    Raises:
        ConflictError: Somebody is at work on it, or exports it; or a disk comes or goes at its
            next start.
        WrongStateError: It has a saved state, or was never provisioned.
        UnsupportedError: It has no disk, or one that vmctl knows nothing of.
    """
    if record.phase.is_detour and record.claim is not None and record.claim.is_abandoned():
        settling.settle(domain, record)
    seen = detours.look(domain)
    record = seen.record
    detours.refuse_work_in_progress(domain, record)
    refuse_while_exported(domain.name, record)
    power.refuse_saved(domain, "backed up")
    if record.volume(Role.SEED) is not None:
        raise WrongStateError(
            f"'{domain.name}' is not ready yet: its seed, which has secrets in it, is in its drive",
            state=domain.state().value,
            hint=f"wait for it first: `vmctl wait {domain.name}`",
        )
    disks = [disk.target for disk in domain.disks()]
    wanted = disk_targets(VMSpec.from_record(record.spec))
    if not disks:
        raise UnsupportedError(
            f"'{domain.name}' has no disk, so there is nothing to back up",
            hint=f"its spec is all there is of it: `vmctl info {domain.name} --format yaml`",
        )
    if set(disks) != set(wanted):
        raise UnsupportedError(
            f"'{domain.name}' has the disks {', '.join(disks)}, and its record knows of "
            f"{', '.join(wanted) or 'none'}",
            hint="take the disks out again that were put in by another program, and put back "
            "what it took out",
        )
    if seen.active and {disk.target for disk in blockjobs.live_disks(domain)} != set(disks):
        raise ConflictError(
            f"the disks of '{domain.name}' will be others at its next start",
            hint="restart it first; or stop it, and back up what it will be",
        )
    return seen


def _refuse_newer(known: Sequence[Known | Damaged]) -> None:
    for entry in known:
        if isinstance(entry, Damaged) and isinstance(entry.error, UnsupportedError):
            raise entry.error


def _forget_uncounted(
    domain: Domain, checkpoints: Sequence[str], known: Sequence[Known | Damaged], prefix: str
) -> None:
    """Delete the checkpoints of backups of this folder that nothing goes on from."""
    counted = [entry for entry in known if isinstance(entry, Known)]
    kept = counted[-1].manifest.checkpoint if counted else ""
    for name in checkpoints:
        if name.startswith(prefix) and name != kept:
            backups.forget_checkpoint(domain, name)


def _bring(
    domain: Domain, record: Record, found: Taken, own: Path, phase: Phase
) -> list[BackupFile]:
    disks = {disk.target: disk for disk in found.disks}
    files = [
        _bring_disk(volume, own, disks[name], found.sizes[name], phase)
        for name, volume in found.volumes.items()
    ]
    for owned in record.volumes:
        if owned.role is Role.KERNEL:
            # As the plan of a launch names it: MACHINE.UUID.kernel, for example.
            role = owned.name.rpartition(".")[2]
            volume = StoredVolume(domain.connection, owned.pool, owned.name)
            size, digest = fetching.fetch(volume, own / role, phase)
            files.append(BackupFile.model_validate({"role": role, "size": size, "sha256": digest}))
    if found.nvram is not None:
        size, digest = fetching.keep(found.nvram, own / "nvram")
        files.append(BackupFile(role="nvram", target=found.firmware, size=size, sha256=digest))
    size, digest = fetching.keep(found.definition.encode(), own / "domain.xml")
    files.append(BackupFile(role="definition", size=size, sha256=digest))
    return files


def _bring_disk(
    volume: StoredVolume, own: Path, disk: DiskNow, virtual_size: int, phase: Phase
) -> BackupFile:
    path = own / f"disk-{disk.target}.qcow2"
    size, digest = fetching.fetch(volume, path, phase)
    if check_overlay(path, "qcow2") != virtual_size:
        raise ImageError(
            f"what QEMU wrote of the disk {disk.target} is not of its size",
            hint="make the backup again",
        )
    return BackupFile(
        role="disk",
        target=disk.target,
        size=size,
        sha256=digest,
        virtual_size=virtual_size,
        sources=disk.sources,
        read_only=disk.read_only,
    )


def _manifest(
    domain: Domain, record: Record, found: Taken, files: tuple[BackupFile, ...], traces: Traces
) -> Manifest:
    parent = found.choice.parent
    return Manifest(
        id=traces.backup,
        target=traces.target,
        parent=None if parent is None else Parent(id=parent.id, sha256=parent.sha256),
        created=found.created,
        uuid=domain.uuid,
        machine=domain.name,
        architecture=VMSpec.from_record(record.spec).arch.value,
        consistency=found.consistency,
        why=found.choice.why,
        remarks=found.remarks,
        checkpoint=found.checkpoint,
        spec=record.spec,
        host_key=record.host_key,
        ssh_user=record.ssh_user,
        instance_id=record.instance_id,
        files=files,
    )


def _commit(domain: Domain, folder: MachineFolder, own: Path, manifest: Manifest) -> Known:
    try:
        return folder.commit(own, manifest)
    except BaseException:
        # The one before it is still what the next goes on from.
        with being_undone():
            outlasting(lambda: backups.forget_checkpoint(domain, manifest.checkpoint))
        raise


def _forget_older(domain: Domain, made: Known, prefix: str) -> None:
    """Delete the checkpoints that nothing goes on from any more.

    Those of other folders stay, the newest of them: what those folders hold is not known here.
    """
    try:
        names = backups.checkpoints(domain)
        others = [
            (found["backup"], name)
            for name in names
            if (found := backup_traces.OWN_CHECKPOINT.fullmatch(name)) is not None
            and not name.startswith(prefix)
        ]
        too_many = {name for _backup, name in sorted(others)[:-_MOST_OTHERS]}
        for name in names:
            older = name.startswith(prefix) and name != made.manifest.checkpoint
            if older or name in too_many:
                backups.forget_checkpoint(domain, name)
    except VmctlError:
        # The backup counts already. They are in nobody's way, and the next one deletes them.
        return


# -- a stream -------------------------------------------------------------------------------------


def to_stream(
    domain: Domain,
    record: Record,
    out: BinaryIO,
    *,
    wishes: Wishes,
    progress: ProgressCallback | None,
) -> Backup:
    """Write a full backup to an open file, as a bundle; see `VM.backup`."""
    seen = _ready(domain, record)
    record = seen.record
    backup = next_id(datetime.now(UTC))
    traces = Traces(uuid=domain.uuid, target=_NO_TARGET, backup=backup)

    def decide(_now: MachineNow) -> Choice:
        return Choice(None, "a stream has nothing before it", tracks=False)

    reporter = Reporter(domain.name, progress)
    with saying_when_full(f"the backup of '{domain.name}'"), scratch_folder() as scratch:
        with taken(
            domain,
            seen,
            traces,
            decide=decide,
            goes_to=scratch,
            wishes=wishes,
            reporter=reporter,
        ) as found:
            with reporter.phase("download") as phase:
                files = tuple(_bring(domain, record, found, scratch, phase))
            manifest = _manifest(domain, record, found, files, traces)
        with reporter.phase("write") as phase:
            size = _write_bundle(manifest, scratch, out, phase)
    return Backup(
        id=backup,
        machine=domain.name,
        uuid=domain.uuid,
        created=manifest.created,
        kind=Kind.FULL.value,
        consistency=manifest.consistency.value,
        size=size,
        why=manifest.why,
        remarks=manifest.remarks,
    )


def _write_bundle(manifest: Manifest, scratch: Path, out: BinaryIO, phase: Phase) -> int:
    paths, entries = [], []
    for file in manifest.files:
        path = scratch / file.name
        if file.role == "definition":
            continue
        if file.role == "disk":
            inspect(path, format="qcow2")
        paths.append(path)
        entries.append(
            BundledFile(
                role=file.role,
                size=file.size,
                target=file.target,
                format="qcow2" if file.role == "disk" else "raw",
                virtual_size=file.virtual_size,
            )
        )
    try:
        writer = Writer(
            out,
            BundleManifest(
                spec=portable_spec(manifest.spec, [disk.target for disk in manifest.disks]),
                files=tuple(entries),
                host_key=manifest.host_key,
                ssh_user=manifest.ssh_user,
                instance_id=manifest.instance_id,
            ),
        )
        for path in paths:
            writer.add(path, scratch, phase)
            path.unlink()
        writer.finish()
    except BrokenPipeError as error:
        raise ResourceError(
            "whoever reads the backup takes no more of it",
            details=error.strerror or str(error),
            hint="see what became of the program that it is written to",
        ) from error
    return sum(file.size for file in entries)
