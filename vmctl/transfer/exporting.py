"""A machine out to files: its disks flat in one format, an OVA, or a bundle."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from vmctl.bases import is_base
from vmctl.errors import (
    ConflictError,
    ImageError,
    NotFoundError,
    UnsupportedError,
    UsageError,
    WrongStateError,
)
from vmctl.hypervisor.domains import DiskFile, Domain, State
from vmctl.hypervisor.metadata import Record, Role
from vmctl.hypervisor.volumes import StoredVolume, at_path
from vmctl.imaging.bundle import BundledFile, Manifest, Writer
from vmctl.imaging.flattening import flatten
from vmctl.imaging.inspection import inspect
from vmctl.imaging.ovf_writing import ExportedDisk, describe_machine, write_ova
from vmctl.imaging.scratch import scratch_folder
from vmctl.progress import Phase, ProgressCallback, Reporter
from vmctl.spec import DiskBus, VMSpec

__all__ = ["ExportFormat", "export"]

_OFF = frozenset({State.SHUT_OFF, State.CRASHED})
# More layers than anybody stacks; a host that lies could name them in a circle.
_MOST_LAYERS = 200


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
) -> None:
    """Write a machine that is off; see `VM.export`."""
    _refuse_running(domain)
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
    with Reporter(domain.name, progress).phase("export") as phase, scratch_folder() as scratch:
        work = _Export(domain, record, disks, scratch, phase)
        if not isinstance(target, Path):
            work.bundle(target)
            return
        with _appearing(target, replace=replace) as part:
            work.write(part, form)
            _refuse_running(domain)


def _refuse_running(domain: Domain) -> None:
    state = domain.state()
    if state not in _OFF:
        raise WrongStateError(
            f"'{domain.name}' is {state.value}: its disks change while they are read",
            state=state.value,
            hint=f"stop it first: `vmctl stop {domain.name}`",
        )


@contextmanager
def _appearing(target: Path, *, replace: bool) -> Iterator[Path]:
    """Give a name beside the target's, which becomes the target's when the block succeeds."""
    if not target.parent.is_dir():
        raise NotFoundError(f"there is no folder {str(target.parent)!r}", hint="make it first")
    if os.path.lexists(target) and not (replace and target.is_file()):
        raise ConflictError(
            f"there is a file {str(target)!r} already", hint="choose another name, or replace it"
        )
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True
    ) as folder:
        part = Path(folder) / "part"
        yield part
        if part.is_dir() and os.path.lexists(target):
            raise ConflictError(
                f"there is a file {str(target)!r} already, and several disks make a folder",
                hint="choose another name",
            )
        if replace:
            part.replace(target)
        else:
            _move_anew(part, target)


def _move_anew(part: Path, target: Path) -> None:
    """Give a file its name unless there is one of that name by now."""
    if part.is_dir():
        part.rename(target)
        return
    try:
        target.hardlink_to(part)
    except FileExistsError as error:
        raise ConflictError(
            f"there is a file {str(target)!r} by now", hint="choose another name, or replace it"
        ) from error
    except OSError:
        # A file system without links.
        part.replace(target)


class _Export:
    def __init__(
        self,
        domain: Domain,
        record: Record,
        disks: tuple[DiskFile, ...],
        scratch: Path,
        phase: Phase,
    ) -> None:
        self._domain = domain
        self._record = record
        self._disks = disks
        self._scratch = scratch
        self._phase = phase

    def write(self, part: Path, form: ExportFormat) -> None:
        if form is ExportFormat.BUNDLE:
            with _private(part) as file:
                self.bundle(file)
        elif form is ExportFormat.OVA:
            with _private(part) as file:
                self._ova(file)
        elif len(self._disks) == 1:
            self._flatten(self._disks[0], part, form)
        else:
            # A file for each, in a folder.
            part.mkdir(mode=0o700)
            for disk in self._disks:
                self._flatten(disk, part / f"{disk.target}.{form}", form)

    def _flatten(self, disk: DiskFile, target: Path, form: str, options: str = "") -> None:
        layers = []
        try:
            for number, (volume, kind) in enumerate(self._layers(disk)):
                layers.append((self._download(volume, f"layer-{number}"), kind))
            with _private(target):
                pass
            flatten(layers, target, form, options=options, phase=self._phase)
        finally:
            for path, _kind in layers:
                path.unlink(missing_ok=True)

    def _layers(self, disk: DiskFile) -> Iterator[tuple[StoredVolume, str]]:
        if not disk.path:
            raise UnsupportedError(
                f"the disk {disk.target} of '{self._domain.name}' is a server's, and not a volume",
                hint="copy it where it is served, by `qemu-img convert`",
            )
        path, kind = disk.path, disk.format
        for _ in range(_MOST_LAYERS):
            volume = at_path(self._domain.connection, path)
            facts = volume.facts()
            yield volume, kind
            if kind != "qcow2" or not facts.backing:
                return
            path = facts.backing
            below = at_path(self._domain.connection, path)
            # libvirt made a base's volume as a plain file, and may not have looked into it since.
            kind = "qcow2" if is_base(below.name) else below.facts().format
        raise ImageError(
            f"the disk {disk.target} of '{self._domain.name}' has more than {_MOST_LAYERS} layers",
            hint="`vmctl doctor` looks at the volumes of the host",
        )

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
        name = self._domain.name
        spec = VMSpec.from_record(self._record.spec)
        buses = [disk.bus or DiskBus.SATA for disk in spec.disks]
        described, files = [], []
        for number, disk in enumerate(self._disks):
            path = self._scratch / f"disk-{number}.vmdk"
            self._flatten(disk, path, "vmdk", "subformat=streamOptimized")
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
        write_ova(file, name, describe_machine(spec, described), files, self._phase)

    def bundle(self, file: BinaryIO) -> None:
        paths, entries = [], []
        for number, disk in enumerate(self._disks):
            path = self._scratch / f"disk-{number}"
            self._flatten(disk, path, "qcow2", "compat=1.1")
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
        for owned in self._record.volumes:
            if owned.role is Role.KERNEL:
                role = owned.name.rpartition(".")[2]
                volume = StoredVolume(self._domain.connection, owned.pool, owned.name)
                paths.append(self._download(volume, role))
                entries.append(BundledFile(role=role, size=paths[-1].stat().st_size))
        manifest = Manifest(
            spec=self._spec(),
            files=tuple(entries),
            host_key=self._record.host_key,
            ssh_user=self._record.ssh_user,
            instance_id=self._record.instance_id,
        )
        writer = Writer(file, manifest)
        for path in paths:
            writer.add(path, self._scratch, self._phase)
            path.unlink()
        _refuse_running(self._domain)
        writer.finish()

    def _spec(self) -> dict[str, Any]:
        """Return the spec without the images and paths of the place that it leaves."""
        spec: dict[str, Any] = {**self._record.spec, "image": None}
        drop = {"image", "volume", "network", "read_only", "format"}
        disks = [
            {key: value for key, value in disk.items() if key not in drop}
            for disk in spec.get("disks") or ()
        ]
        for disk, there in zip(disks, self._disks, strict=True):
            disk["target"] = there.target
        spec["disks"] = disks
        return spec


@contextmanager
def _private(path: Path) -> Iterator[BinaryIO]:
    """Make a file that this user alone can read: a disk holds secrets."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        yield file
