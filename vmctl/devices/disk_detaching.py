"""Detaching a disk from a machine, when its guest lets go of it."""

from __future__ import annotations

from vmctl.changes import carry_out, changing
from vmctl.devices.disk_attaching import FIXED_BUSES
from vmctl.devices.disk_list import AttachedDisk, find_disk
from vmctl.devices.machine import not_live, recorded, spec_of, with_drives
from vmctl.errors import ConflictError
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.chains import read_chain
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.metadata import OwnedVolume, Pending, Record
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.snapshots import list_details
from vmctl.progress import ProgressCallback, Reporter
from vmctl.snapshotting.files import attached_below

__all__ = ["DETACH_SECONDS", "detach_disk", "why_not_detached_live"]

DETACH_SECONDS = 30.0
"""How long a guest has by default to let go of a device."""


def why_not_detached_live(domain: Domain, bus: str) -> str | None:
    """Return why a disk on a bus can't be detached from the running machine; None if it can."""
    if bus in FIXED_BUSES:
        return f"a disk on {bus} can't be unplugged from a running machine"
    if domain.state() is State.PAUSED:
        return f"'{domain.name}' is paused: its guest can't let go of a disk"
    return None


def detach_disk(
    domain: Domain,
    target: str,
    *,
    force: bool = False,
    delete: bool = False,
    next_start: bool = False,
    timeout: float = DETACH_SECONDS,
    progress: ProgressCallback | None = None,
) -> AttachedDisk:
    """Detach a disk: from the running machine, when its guest lets go, and for its next start.

    Its volume stays, as one like any other in its pool, unless it shall be deleted; one that
    snapshots hold stays the machine's.

    Args:
        domain: The machine.
        target: The disk's name, ``vdb``.
        force: Whether even the disk that the machine boots from is detached.
        delete: Whether its volume is deleted, if vmctl made it for this machine.
        next_start: Whether a running machine keeps it until then.
        timeout: Seconds that the guest has to let go of it.
        progress: Told of the one phase, ``detach``.

    Returns:
        What it was.

    Raises:
        NotFoundError: There is no such disk.
        ConflictError: It is the root disk; or it is to be deleted, and a snapshot needs it; or it
            is a volume that was there before, and snapshots froze it.
        WrongStateError: The guest refused to let go of it.
        WaitTimeoutError: The guest did not answer. It may still do so: detach it again then.
        UnsupportedError: The running machine can't lose it before its next start.
    """
    with changing(domain) as record:
        disk = find_disk(domain, target)
        spec = spec_of(record)
        if spec.disks and spec.disks[0].target == target and not force:
            raise ConflictError(
                f"{target} is the root disk of '{domain.name}'",
                hint="without it the machine does not start; --force, or force=True, detaches it",
            )
        scope = hotplug.scope_of(domain, next_start=next_start)
        if scope.now and disk.now:
            problem = why_not_detached_live(domain, disk.bus)
            if problem is not None:
                raise not_live(problem)
        own = _own_volume(domain, record, disk)
        held = _snapshots_with(domain, disk)
        if held and own is not None and _is_attached(domain, record, disk):
            raise ConflictError(
                f"what '{domain.name}' wrote to the volume of {target} since its snapshot "
                f"'{held[0]}' lies in layers of the machine's",
                hint="delete its snapshots first, which merges them: `vmctl snapshot list "
                f"{domain.name}`",
            )
        if delete:
            _refuse_deletion(domain, disk, own, held, keeps=disk.now and not scope.now)
        rest = tuple(entry for entry in spec.disks if entry.target != target)
        pending = Pending(
            device=target,
            present=False,
            spec=recorded(with_drives(spec, disks=rest), record),
            # What lies underneath it is in a snapshot, and goes with the machine: so does this.
            gone=None if held else own,
            deletes=delete,
        )

        def act() -> None:
            with Reporter(domain.name, progress).phase("detach") as phase:
                if scope.now:
                    phase.update("waiting for the guest to let go of it")
                    hotplug.detach_now(domain, "disk", target, timeout=timeout)
                hotplug.detach_next(domain, "disk", target)

        carry_out(domain, pending, act)
    return disk


def _own_volume(domain: Domain, record: Record, disk: AttachedDisk) -> OwnedVolume | None:
    for volume in record.volumes:
        if open_pool(domain.connection, volume.pool).path_of(volume.name) == disk.source:
            return volume
    return None


def _is_attached(domain: Domain, record: Record, disk: AttachedDisk) -> bool:
    """Return whether the machine's layers lie on a volume that was there before it."""
    own = {
        open_pool(domain.connection, volume.pool).path_of(volume.name) for volume in record.volumes
    }
    chain = [layer.path for layer in read_chain(domain.connection, disk.source, "")]
    return bool(attached_below(domain, record, chain, own))


def _snapshots_with(domain: Domain, disk: AttachedDisk) -> list[str]:
    """Return the machine's snapshots that hold the disk, or what is underneath it."""
    layers = {layer.path for layer in read_chain(domain.connection, disk.source, "")}
    return [
        entry.facts.name for entry in list_details(domain) if not layers.isdisjoint(entry.files)
    ]


def _refuse_deletion(
    domain: Domain,
    disk: AttachedDisk,
    own: OwnedVolume | None,
    snapshots: list[str],
    *,
    keeps: bool,
) -> None:
    if own is None:
        raise ConflictError(
            f"the volume of {disk.target} was not made for '{domain.name}', and is not deleted",
            hint="detach it without deleting it; `vmctl volume delete` deletes volumes",
        )
    if keeps:
        raise ConflictError(
            f"'{domain.name}' uses {disk.target} until it is stopped, so it can't be deleted now",
            hint="detach it without deleting it; `vmctl volume delete` deletes it later",
        )
    if snapshots:
        raise ConflictError(
            f"{disk.target} is in the snapshot '{snapshots[0]}' of '{domain.name}'",
            hint="delete the snapshot first, or detach the disk without deleting it",
        )
