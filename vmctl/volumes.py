"""Volumes of a host: made, copied, grown, filled, read, wiped, removed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from vmctl import bases, power, streaming
from vmctl.errors import ConflictError, ResourceError, UnsupportedError, UsageError
from vmctl.existing import copy_volume
from vmctl.hypervisor import image_names, pools, volumes
from vmctl.hypervisor.attachment import key_of
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.exports import refuse_while_exported
from vmctl.hypervisor.housekeeping import Housekeeping
from vmctl.hypervisor.names import find, list_domains
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.usage import DiskUse, Usage, VolumeUser, read_usage
from vmctl.hypervisor.volumes import StoredVolume, VolumeFacts
from vmctl.progress import ProgressCallback, Reporter
from vmctl.render.domain import disk_targets
from vmctl.render.volume import render_block_volume, render_volume
from vmctl.spec import VMSpec
from vmctl.spec.sizes import Size

__all__ = ["VolumeInfo", "VolumeSummary", "Volumes"]

VolumeSummary: TypeAlias = VolumeFacts

_NAME = re.compile(r"[^\x00-\x1f\x7f/]{1,200}")
_ROUND = 512


@dataclass(frozen=True, kw_only=True)
class VolumeInfo(VolumeFacts):
    """A volume, and who uses it.

    Attributes:
        used_by: Machines, running or not, and volumes that lie on it.
    """

    used_by: tuple[VolumeUser, ...]


class Volumes:
    """The volumes of one host. One is called ``NAME``, in the default pool, or ``POOL/NAME``.

    A volume that anything uses is never deleted, wiped or written over, whoever made either.
    """

    def __init__(self, connection: Connection, default_pool: str) -> None:
        self._connection = connection
        self._default = default_pool

    def _handle(self, reference: str) -> StoredVolume:
        pool, slash, name = reference.rpartition("/")
        if not name or (slash and not pool) or "/" in pool or _NAME.fullmatch(name) is None:
            raise UsageError(f"{reference[:80]!r} is not a volume", hint="write NAME, or POOL/NAME")
        found = open_pool(self._connection, pool or self._default)
        return StoredVolume.of(found, name)

    def _new(self, reference: str) -> tuple[StoredVolume, bool]:
        """Return a handle for a volume that is to be made, and whether it is going to be a file."""
        volume = self._handle(reference)
        if volume.name in {".", ".."} or volume.name.startswith("-"):
            raise UsageError(
                f"{volume.name!r} can't be a volume's name", hint="begin it with a letter"
            )
        if bases.is_base(volume.name) or image_names.is_name(volume.name):
            raise UsageError(
                f"{volume.name!r} is a name that images have",
                hint="choose another; `vmctl image import` brings an image in",
            )
        kind = pools.facts_of(self._connection, volume.pool).type
        if kind in {"iscsi", "iscsi-direct", "scsi", "mpath"}:
            raise UnsupportedError(
                f"the volumes of the pool '{volume.pool}' are made on its server",
                hint=f"make a LUN there, then `vmctl volume list {volume.pool}` shows it",
            )
        if volume.exists():
            raise volume.name_is_taken()
        return volume, kind in pools.FILE_POOLS

    def list(self, pool: str | None = None, *, everything: bool = False) -> Sequence[VolumeSummary]:
        """Return the volumes of a pool as they are now, sorted by name.

        Args:
            pool: Which; None for the default one.
            everything: With vmctl's own small ones: its notes on images and on work in progress,
                the seeds and console logs of machines.

        Raises:
            NotFoundError: There is no such pool.
        """
        found = open_pool(self._connection, pool or self._default)
        listed = volumes.list_volumes(self._connection, found.name)
        if everything:
            return listed
        housekeeping = Housekeeping(self._connection)
        return [entry for entry in listed if not housekeeping.has(entry.pool, entry.name)]

    def info(self, name: str) -> VolumeInfo:
        """Return all that is known of a volume, and who uses it.

        Raises:
            NotFoundError: There is no such volume.
        """
        volume = self._handle(name)
        facts = volume.facts()
        return VolumeInfo(**vars(facts), used_by=self._users(read_usage(self._connection), facts))

    def _users(self, usage: Usage, facts: VolumeFacts) -> tuple[VolumeUser, ...]:
        return usage.users(facts.pool, facts.name, key_of(self._connection, facts))

    def create(
        self,
        name: str,
        size: int | str,
        *,
        format: str = "qcow2",  # noqa: A002 - libvirt's own word
        preallocate: bool = False,
    ) -> VolumeSummary:
        """Make an empty volume.

        Args:
            name: ``NAME``, in the default pool, or ``POOL/NAME``.
            size: What a guest sees: bytes, or text with a unit.
            format: ``qcow2`` or ``raw``, where volumes are files; elsewhere they are devices.
            preallocate: Whether all of its space is taken at once, where volumes are files. On a
                file system that can't set space aside, it is written full, which takes its time.

        Raises:
            ConflictError: There is one of that name; it stays untouched.
            ResourceError: There is no room.
            UnsupportedError: The pool's volumes are made on its server.
        """
        if format not in {"qcow2", "raw"}:
            raise UsageError(f"{format[:40]!r} is no format for it", hint="it is qcow2 or raw")
        capacity = int(_size(size))
        volume, is_file = self._new(name)
        if is_file:
            xml = render_volume(
                volume.name, capacity=capacity, format=format, preallocate=preallocate
            )
        else:
            xml = render_block_volume(volume.name, capacity=capacity)
        with streaming.made_or_undone(volume):
            volume.create(xml, preallocated=preallocate and is_file and format == "qcow2")
        return volume.facts()

    def clone(
        self, source: str, name: str, *, progress: ProgressCallback | None = None
    ) -> VolumeSummary:
        """Make a full copy of a volume: what lies underneath it is in the copy, not under it.

        Args:
            source: The volume to copy; no running machine writes to it.
            name: The new volume, in the same pool or another of the host.
            progress: Told of the one phase, ``clone``.

        Raises:
            NotFoundError: There is no such volume.
            ConflictError: There is one of the new name, or a running machine writes to the source.
            ImageError: It is not written as it is said to be, or leads to what is no volume.
            ResourceError: There is no room.
        """
        origin = self._handle(source)
        pools.refresh(self._connection, origin.pool)
        facts = origin.facts()
        self._refuse_written(facts, "copied")
        form = self._format_of(facts)
        volume, is_file = self._new(name)
        self._refuse_without_room(volume, facts)
        if is_file:
            xml = render_volume(volume.name, capacity=facts.capacity, format=form)
        else:
            xml = render_block_volume(volume.name, capacity=facts.capacity)
        with (
            Reporter(volume.name, progress).phase("clone"),
            streaming.made_or_undone(volume),
        ):
            copy_volume(origin, volume, xml, format=form)
        return volume.facts()

    def _format_of(self, facts: VolumeFacts) -> str:
        """Return how a volume is written: as the machine has it whose disk it is, if there is one.

        What libvirt says is what it looks like, and that is for the guest to choose.
        """
        for listed in list_domains(self._connection):
            for disk in listed.domain.disks():
                if disk.path == facts.path:
                    return disk.format
        return facts.format if facts.type == "file" and facts.format == "qcow2" else "raw"

    def _refuse_without_room(self, volume: StoredVolume, facts: VolumeFacts) -> None:
        available = pools.facts_of(self._connection, volume.pool).available
        if available < facts.allocation:
            raise ResourceError(
                f"the pool '{volume.pool}' has no room for a copy of '{facts.name}': it takes at "
                f"least {facts.allocation} bytes, and {available} are free",
                hint="remove what is not needed, or use another pool",
            )

    def grow(self, name: str, size: int | str) -> VolumeSummary:
        """Make a volume larger; if a running machine has it as a disk, its guest sees it at once.

        Args:
            name: Which.
            size: The new size: bytes, or text with a unit. Volumes don't shrink.

        Raises:
            NotFoundError: There is no such volume.
            UsageError: The size is not more than it has.
            ConflictError: Another volume lies on it, or several machines use it.
            WrongStateError: A machine with a saved state uses it.
            ResourceError: There is no room.
        """
        capacity = int(_size(size))
        volume = self._handle(name)
        bases.refuse_writing(volume.name)
        facts = volume.facts()
        if capacity <= facts.capacity:
            raise UsageError(
                f"the volume '{facts.name}' has {Size(facts.capacity)} already; it only grows",
                hint="give it a larger size",
            )
        if capacity % _ROUND:
            raise UsageError(
                f"{capacity} bytes are not a whole number of sectors", hint="use multiples of 512B"
            )
        usage = read_usage(self._connection)
        key = key_of(self._connection, facts)
        users = self._users(usage, facts)
        running = usage.running(facts.pool, facts.name, key)
        lying_on_it = [user for user in users if user.kind == "volume"]
        if lying_on_it or len(running) > 1:
            raise ConflictError(
                f"the volume '{facts.name}' is shared by {', '.join(map(str, users))}",
                hint="grow the disk that lies on it; what is shared stays as it is",
            )
        for user in users:
            if user.kind == "machine":
                power.refuse_saved(find(self._connection, user.name), "given a larger disk")
        owner = self._owner(facts)
        if running:
            self._grow_running(running[0], capacity)
        else:
            volume.resize(capacity)
        if owner is not None:
            _note_size(*owner, capacity)
        return volume.facts()

    def _owner(self, facts: VolumeFacts) -> tuple[Domain, int] | None:
        """Return the machine of vmctl's that a volume goes with, and which of its disks it is.

        Raises:
            ConflictError: Somebody is at work on that machine.
        """
        for listed in list_domains(self._connection):
            record = listed.record
            own = () if record is None else record.volumes
            if record is None or (facts.pool, facts.name) not in {(v.pool, v.name) for v in own}:
                continue
            if record.claim is not None and not record.claim.is_abandoned():
                raise ConflictError(
                    f"somebody is at work on '{listed.domain.name}': it is {record.phase.value}",
                    hint="wait until that has ended",
                )
            refuse_while_exported(listed.domain.name, record)
            targets = disk_targets(VMSpec.from_record(record.spec))
            for disk in listed.domain.disks():
                if disk.path == facts.path and disk.target in targets:
                    return listed.domain, targets.index(disk.target)
            return None
        return None

    def _grow_running(self, use: DiskUse, capacity: int) -> None:
        if not use.writes:
            raise ConflictError(
                f"the machine '{use.machine}' runs, and its disk {use.target} is read-only",
                hint="stop it, and grow the volume then",
            )
        Domain(self._connection, use.uuid, use.machine).resize_disk(use.target, capacity)

    def upload(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        format: str | None = None,  # noqa: A002 - libvirt's own word
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
    ) -> VolumeSummary:
        """Make a volume of a client's file. Its holes stay holes; if it fails, nothing is left.

        Args:
            path: The file, which is looked at first: an image that names other files is refused.
            name: The new volume.
            format: What the file is: ``raw`` for anything that is no image, such as an ISO; None
                for what it is found to be.
            overwrite: Write over an existing volume that is a device (a LUN, a logical volume) and
                that nothing uses, instead of making one.
            progress: Told of the phases ``image``, the look at the file, and ``upload``.

        Raises:
            ConflictError: There is a volume of that name, or something uses the one to overwrite.
            ImageError: The file can't be read, or is not what it is said to be.
            ResourceError: There is no room.
        """
        if format not in {None, "qcow2", "raw"}:
            raise UsageError(f"{format!r} is no format for it", hint="it is qcow2 or raw")
        if overwrite:
            volume = self._handle(name)
            self._refuse_used(volume.facts(), "written over")
        else:
            volume, _ = self._new(name)
        write = streaming.overwrite if overwrite else streaming.upload
        write(volume, Path(path), declared=format, reporter=Reporter(volume.name, progress))
        # libvirt looks at a file's header when it looks through the pool.
        pools.refresh(self._connection, volume.pool)
        return volume.facts()

    def download(
        self,
        name: str,
        path: str | os.PathLike[str] | BinaryIO,
        *,
        replace: bool = False,
        progress: ProgressCallback | None = None,
    ) -> int:
        """Write a volume into a file on the client, which appears when it is whole; or to a pipe.

        The file has what the volume's file has, image format and all; what is underneath the volume
        is not in it. Holes stay holes.

        Args:
            name: The volume; no running machine writes to it.
            path: The file to make; or an open one, which is written to from where it stands, its
                holes as zeros.
            replace: Whether a file that is there is replaced.
            progress: Told of the one phase, ``download``.

        Returns:
            The file's size in bytes.

        Raises:
            NotFoundError: There is no such volume.
            ConflictError: There is such a file, or a running machine writes to the volume.
            ResourceError: The file can't be written.
        """
        volume = self._handle(name)
        self._refuse_written(volume.facts(), "read")
        with Reporter(volume.name, progress).phase("download") as phase:
            if not isinstance(path, str | os.PathLike):
                return streaming.write_out(volume, path, phase=phase)
            return streaming.download(volume, Path(path), replace=replace, phase=phase)

    def wipe(self, name: str, *, progress: ProgressCallback | None = None) -> None:
        """Write zeros over all of a volume, so that what it held can't be read again.

        Args:
            name: Which.
            progress: Told of the one phase, ``wipe``.

        Raises:
            NotFoundError: There is no such volume.
            ConflictError: Something uses it.
        """
        volume = self._handle(name)
        self._refuse_used(volume.facts(), "wiped")
        with Reporter(volume.name, progress).phase("wipe"):
            volume.wipe()

    def delete(self, name: str) -> None:
        """Delete a volume.

        Raises:
            NotFoundError: There is no such volume.
            ConflictError: Something uses it.
        """
        volume = self._handle(name)
        self._refuse_used(volume.facts(), "deleted")
        volume.delete()

    def _refuse_used(self, facts: VolumeFacts, done: str) -> None:
        # What was made behind libvirt's back may lie on it.
        pools.refresh_files(self._connection)
        users = self._users(read_usage(self._connection), facts)
        if users:
            raise ConflictError(
                f"the volume '{facts.name}' in the pool '{facts.pool}' is used by "
                f"{', '.join(map(str, users))}, and is not {done}",
                hint="delete what uses it first, or detach the volume from it",
            )
        if bases.is_base(facts.name) or image_names.is_name(facts.name):
            raise ConflictError(
                f"the volume '{facts.name}' is an image's, and is not {done} as a volume",
                hint="`vmctl image remove` and `vmctl image prune` remove images",
            )

    def _refuse_written(self, facts: VolumeFacts, done: str) -> None:
        usage = read_usage(self._connection)
        key = key_of(self._connection, facts)
        for use in usage.running(facts.pool, facts.name, key):
            if use.writes:
                raise ConflictError(
                    f"the machine '{use.machine}' runs and writes to the volume '{facts.name}', "
                    f"which can't be {done} meanwhile",
                    hint=f"stop it first: `vmctl stop {use.machine}`",
                )


def _note_size(domain: Domain, number: int, capacity: int) -> None:
    """Record what a machine's disk has become, so that its spec says what there is."""
    record = domain.record()
    if record is None:
        return
    disks = [dict(disk) for disk in record.spec.get("disks", ())]
    if number < len(disks):
        disks[number]["size"] = str(Size(capacity))
        domain.update_record(spec={**record.spec, "disks": disks})


def _size(size: int | str) -> Size:
    try:
        return Size(size)
    except ValueError as error:
        raise UsageError(str(error), hint="write it like 10GiB") from error
