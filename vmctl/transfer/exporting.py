"""A machine out to files: its disks flat in one format, an OVA, or a bundle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import BinaryIO

from vmctl import power
from vmctl.changes import alone
from vmctl.errors import (
    ConflictError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    UsageError,
    WrongStateError,
)
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.exports import being_exported
from vmctl.hypervisor.metadata import Phase as MachinePhase
from vmctl.hypervisor.metadata import Record, Role
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.imaging.bundle import BundledFile, Manifest, Writer
from vmctl.imaging.flattening import flatten
from vmctl.imaging.inspection import inspect
from vmctl.imaging.ovf_writing import ExportedDisk, describe_machine, write_ova
from vmctl.imaging.scratch import folder_beside, saying_when_full, scratch_folder
from vmctl.progress import Phase, ProgressCallback, Reporter
from vmctl.spec import DiskBus, VMSpec
from vmctl.transfer.source import Layer, Watched, portable_spec

__all__ = ["ExportFormat", "export"]


class ExportFormat(StrEnum):
    """What a machine can be exported to."""

    QCOW2 = "qcow2"
    RAW = "raw"
    VMDK = "vmdk"
    OVA = "ova"
    BUNDLE = "bundle"


def export(
    domain: Domain,
    record: Record,
    target: Path | BinaryIO,
    form: ExportFormat,
    *,
    replace: bool,
    progress: ProgressCallback | None,
) -> tuple[str, ...]:
    """Write a machine that is off; see `VM.export`."""
    _refuse_running(domain)
    _refuse_unfinished(domain, record)
    power.refuse_saved(domain, "exported")
    disks = domain.disks()
    if not disks:
        raise UnsupportedError(
            f"'{domain.name}' has no disk, so there is nothing to export",
            hint=f"its spec is all there is of it: `vmctl info {domain.name} --format yaml`",
        )
    if record.volume(Role.SEED) is not None:
        raise WrongStateError(
            f"'{domain.name}' was never provisioned: its cloud-init seed is still needed",
            state=domain.state().value,
            hint=f"start it and wait: `vmctl start --wait {domain.name}`; or launch its spec there",
        )
    wanted = record.spec.get("disks") or ()
    if len(wanted) != len(disks):
        raise UnsupportedError(
            f"'{domain.name}' has {len(disks)} disks, and its record knows of {len(wanted)}",
            hint="take the disks out again that were put in by another program",
        )
    if not isinstance(target, Path) and form is not ExportFormat.BUNDLE:
        raise UsageError(
            f"{form} can't be written as a stream", hint="name a file, or export a bundle"
        )
    # A start that was over before this began is none that tears it.
    domain.connection.catch_up()
    with (
        saying_when_full(f"the disks of '{domain.name}'"),
        Reporter(domain.name, progress).phase("export") as phase,
        scratch_folder() as scratch,
        _place(target, replace=replace) as place,
        being_exported(domain, alone=partial(alone, domain)),
        domain.connection.events.listening(domain.uuid) as heard,
    ):
        # Only from here on nobody of vmctl's starts it.
        _refuse_running(domain)
        watched = Watched(domain, record, heard)
        _Export(watched, scratch, phase).write(place, form)
    return _left_behind(domain, record, form)


def _left_behind(domain: Domain, record: Record, form: ExportFormat) -> tuple[str, ...]:
    """Say what of the machine is not in the file, though one could think so."""
    if form not in {ExportFormat.OVA, ExportFormat.BUNDLE}:
        # Of a disk's file nobody expects more than the disk.
        return ()
    found = []
    _code, nvram = domain.firmware()
    if nvram and form is ExportFormat.OVA:
        found.append("the firmware's variables are not carried over: an OVA has no place for them")
    elif nvram and record.volume(Role.NVRAM) is None:
        found.append(
            f"the firmware's variables are not carried over: they are at {nvram}, and not in a pool"
        )
    if VMSpec.from_record(record.spec).firmware.tpm is not None:
        found.append("what its TPM holds is not carried over: libvirt gives it to nobody")
    return tuple(found)


def _refuse_unfinished(domain: Domain, record: Record) -> None:
    at_work = record.claim is not None and not record.claim.is_abandoned()
    if at_work or record.phase in {MachinePhase.CREATING, MachinePhase.DELETING}:
        raise ConflictError(
            f"'{domain.name}' is not whole: it is {record.phase.value}",
            hint="wait until that has ended; `vmctl gc` removes what a killed client left",
        )


def _refuse_running(domain: Domain) -> None:
    if domain.is_active():
        state = domain.state()
        raise WrongStateError(
            f"'{domain.name}' is {state.value}: its disks change while they are read",
            state=state.value,
            hint=f"stop it first: `vmctl stop {domain.name}`",
        )


@contextmanager
def _place(target: Path | BinaryIO, *, replace: bool) -> Iterator[Path | BinaryIO]:
    """Give what is written to: the open file, or a name that becomes the target's."""
    if not isinstance(target, Path):
        yield target
        return
    with _appearing(target, replace=replace) as part:
        yield part


@contextmanager
def _appearing(target: Path, *, replace: bool) -> Iterator[Path]:
    """Give a name beside the target's, which becomes the target's when the block succeeds."""
    if not target.parent.is_dir():
        raise NotFoundError(f"there is no folder {str(target.parent)!r}", hint="make it first")
    if os.path.lexists(target) and not (replace and target.is_file()):
        raise ConflictError(
            f"there is a file {str(target)!r} already",
            hint="choose another name, or replace it: --replace, or replace=True",
        )
    with _beside(target) as part:
        yield part
        _sync(part)
        if part.is_dir() and os.path.lexists(target):
            raise ConflictError(
                f"there is a file {str(target)!r} already, and several disks make a folder",
                hint="choose another name",
            )
        if replace:
            part.replace(target)
        else:
            _move_anew(part, target)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(folder_beside(target))
        except OSError as error:
            raise ResourceError(
                f"can't write to the folder {str(target.parent)!r}",
                details=error.strerror or str(error),
                hint="choose a folder that this user may write to, and that has room",
            ) from error
        yield folder / "part"


def _sync(part: Path) -> None:
    """Wait until it is on the disk: the machine may be deleted next."""
    for path in (*part.glob("*"), part):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _move_anew(part: Path, target: Path) -> None:
    """Give a file its name unless there is one of that name by now."""
    if part.is_dir():
        part.rename(target)
        return
    try:
        target.hardlink_to(part)
    except FileExistsError as error:
        raise ConflictError(
            f"there is a file {str(target)!r} by now",
            hint="choose another name, or replace it: --replace, or replace=True",
        ) from error
    except OSError:
        # A file system without links.
        part.replace(target)


class _Export:
    def __init__(self, watched: Watched, scratch: Path, phase: Phase) -> None:
        self._watched = watched
        self._record = watched.record
        self._source = watched.source
        self._scratch = scratch
        self._phase = phase

    def write(self, place: Path | BinaryIO, form: ExportFormat) -> None:
        if not isinstance(place, Path):
            self._bundle(place)
        elif form is ExportFormat.BUNDLE:
            with _private(place) as file:
                self._bundle(file)
        elif form is ExportFormat.OVA:
            with _private(place) as file:
                self._ova(file)
        else:
            self._files(place, form)

    def _files(self, place: Path, form: ExportFormat) -> None:
        if len(self._source.disks) == 1:
            self._flatten(self._source.layers[0], place, form)
        else:
            # A file for each, in a folder.
            place.mkdir(mode=0o700)
            for disk, layers in zip(self._source.disks, self._source.layers, strict=True):
                self._flatten(layers, place / f"{disk.target}.{form}", form)
        self._watched.refuse_changed()

    def _flatten(self, disk: tuple[Layer, ...], target: Path, form: str, options: str = "") -> None:
        layers = []
        try:
            for number, layer in enumerate(disk):
                path = self._download(layer.volume, f"layer-{number}")
                layers.append((path, layer.format))
            with _private(target):
                pass
            flatten(layers, target, form, options=options, phase=self._phase)
        finally:
            for path, _kind in layers:
                path.unlink(missing_ok=True)

    def _download(self, volume: StoredVolume, name: str) -> Path:
        path = self._scratch / name
        size, done = max(volume.physical_size(), 1), 0

        def received(count: int) -> None:
            nonlocal done
            done += count
            self._phase.update(f"downloading {volume.name}", min(done / size, 1.0))

        with path.open("xb") as file:
            volume.download(file.fileno(), received=received)
        return path

    def _ova(self, file: BinaryIO) -> None:
        name = self._watched.domain.name
        spec = VMSpec.from_record(self._record.spec)
        buses = [disk.bus or DiskBus.SATA for disk in spec.disks]
        described, files = [], []
        for number, layers in enumerate(self._source.layers):
            path = self._scratch / f"disk-{number}.vmdk"
            self._flatten(layers, path, "vmdk", "subformat=streamOptimized")
            image = inspect(path, format="vmdk")
            member = f"{name}-disk{number + 1}.vmdk"
            described.append(
                ExportedDisk(
                    name=member,
                    size=image.size,
                    virtual_size=image.virtual_size,
                    bus=buses[number] if number < len(buses) else DiskBus.SATA,
                )
            )
            files.append((member, path))
        self._watched.refuse_changed()
        write_ova(file, name, describe_machine(spec, described), files, self._phase)

    def _bundle(self, file: BinaryIO) -> None:
        paths, entries = [], []
        for number, disk in enumerate(self._source.disks):
            path = self._scratch / f"disk-{number}"
            self._flatten(self._source.layers[number], path, "qcow2", "compat=1.1")
            image = inspect(path, format="qcow2")
            paths.append(path)
            entries.append(
                BundledFile(
                    role="disk",
                    size=image.size,
                    target=disk.target,
                    format="qcow2",
                    virtual_size=image.virtual_size,
                )
            )
        for kind, other in self._source.others:
            # As the plan of a launch names it: MACHINE.UUID.kernel, for example.
            role = other.volume.name.rpartition(".")[2]
            paths.append(self._download(other.volume, role))
            target = ""
            if kind is Role.NVRAM:
                code, _variables = self._watched.domain.firmware()
                target = code.rpartition("/")[2]
            entries.append(BundledFile(role=role, size=paths[-1].stat().st_size, target=target))
        # All of it was read; nothing of it has left yet.
        self._watched.refuse_changed()
        manifest = Manifest(
            spec=portable_spec(self._record.spec, [disk.target for disk in self._source.disks]),
            files=tuple(entries),
            host_key=self._record.host_key,
            ssh_user=self._record.ssh_user,
            instance_id=self._record.instance_id,
        )
        writer = Writer(file, manifest)
        for path in paths:
            writer.add(path, self._scratch, self._phase)
            path.unlink()
        writer.finish()


@contextmanager
def _private(path: Path) -> Iterator[BinaryIO]:
    """Make a file that this user alone can read: a disk holds secrets."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        yield file
