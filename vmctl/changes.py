"""Changes of a machine's devices: one at a time, and each made or not made, whatever happens.

What a change is going to make is in the record before it exists. Whether the change was made is
then a fact: the definition has the device, or has it no more, or has another value. So whoever
comes after a client that was killed can finish its change, or take back what it made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from vmctl import power
from vmctl.errors import ConflictError, ResourceError, RollbackError, VmctlError
from vmctl.hypervisor import hotplug, reservations, uploads
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.exports import refuse_while_exported
from vmctl.hypervisor.metadata import OwnedVolume, Pending, Phase, Record
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import being_undone

__all__ = [
    "KIND",
    "alone",
    "carry_out",
    "changing",
    "is_being_changed",
    "refuse_while_changed",
    "settle",
    "unneeded_addresses",
]

KIND = "changing"
"""What the note beside a machine's volumes is called while somebody changes the machine."""

# An image for a new disk may have to be fetched and uploaded.
_CLAIM_SECONDS = 7200.0
# How long another change of the same machine is waited for.
_TURN_SECONDS = 60.0


@contextmanager
def changing(
    domain: Domain, *, wait: float = _TURN_SECONDS, even_saved: bool = False
) -> Iterator[Record]:
    """Keep others from changing the machine's devices while the block runs.

    What a killed client left of a change is settled first.

    Args:
        domain: The machine.
        wait: Seconds to wait for somebody else's change.
        even_saved: Whether a machine with a saved state is changed as well: what goes on from its
            memory then knows nothing of it.

    Yields:
        Its record.

    Raises:
        ConflictError: vmctl did not make it, it is not whole, or somebody else is at work on it.
        WrongStateError: It has a saved state, which goes on with the disks and all that it had.
    """
    with alone(domain, _whole(domain), wait=wait):
        settle(domain)
        if not even_saved:
            power.refuse_saved(domain, "changed")
        yield _whole(domain)


@contextmanager
def alone(domain: Domain, record: Record, *, wait: float = _TURN_SECONDS) -> Iterator[None]:
    """Keep others from beginning anything with the machine while the block runs.

    Args:
        domain: The machine.
        record: What vmctl knows of it.
        wait: Seconds to wait for somebody else.

    Raises:
        ConflictError: Somebody else is at it for longer than that.
    """
    note = _note(domain, record)
    with claimed(_CLAIM_SECONDS) as claim:

        def noted() -> bool | None:
            if note is None:
                return False
            try:
                uploads.take_over(note, claim, kind=KIND)
            except ConflictError:
                return None
            except ResourceError:
                # A pool that is full must not keep a disk from being detached.
                return False
            return True

        deadline = time.monotonic() + wait
        written = Signal().wait_for(noted, deadline=deadline, recheck=0.2)
        if written is None:
            raise ConflictError(
                f"somebody else is changing the devices of '{domain.name}'",
                hint="try again when that has ended; `vmctl gc` removes what a killed client left",
            )
        try:
            yield
        finally:
            if written and note is not None:
                outlasting(lambda: uploads.unmark(note, kind=KIND))


def is_being_changed(domain: Domain, record: Record) -> bool:
    """Return whether somebody is changing the machine's devices right now."""
    note = _note(domain, record)
    return note is not None and uploads.is_marked(note, kind=KIND)


def refuse_while_changed(domain: Domain, record: Record) -> None:
    """Refuse what must not happen in the middle of a change of the machine's devices.

    Raises:
        ConflictError: Somebody is changing them.
    """
    if is_being_changed(domain, record):
        raise ConflictError(
            f"somebody is changing the devices of '{domain.name}'",
            hint="try again when that has ended",
        )


def _note(domain: Domain, record: Record) -> StoredVolume | None:
    """Return what is noted beside: it is in the pool of the machine's own first volume."""
    if not record.volumes:
        return None
    # By the UUID alone: a name can change.
    return StoredVolume(domain.connection, record.volumes[0].pool, domain.uuid)


def _whole(domain: Domain) -> Record:
    record = domain.record()
    if record is None:
        raise ConflictError(
            f"the machine '{domain.name}' was not made by vmctl",
            hint="vmctl changes only what it made; use virsh for this one",
        )
    if record.claim is not None or record.phase in {Phase.CREATING, Phase.DELETING}:
        raise ConflictError(
            f"somebody is at work on '{domain.name}': it is {record.phase.value}",
            hint="wait until that has ended; `vmctl gc` removes what a killed client left",
        )
    refuse_while_exported(domain.name, record)
    return record


def carry_out(domain: Domain, pending: Pending, act: Callable[[], object]) -> None:
    """Do what a change consists of, and bring the record into line with what came of it.

    Args:
        domain: The machine, within `changing`.
        pending: What the change makes; it is recorded first.
        act: Makes it; if it fails, the definition must be as it was.

    Raises:
        RollbackError: It failed, and what had been made could not be removed.
    """
    record = _whole(domain)
    made = () if pending.made is None else (pending.made,)
    bases = (pending.base,) if pending.base and pending.base not in record.bases else ()
    if not bases:
        pending = replace(pending, base=None)
    domain.update_record(
        pending=pending, volumes=(*record.volumes, *made), bases=(*record.bases, *bases)
    )
    try:
        act()
    except BaseException as error:
        with being_undone():
            _undo(domain, pending, error)
        raise
    # What a value became is libvirt's to write; a device is there, or not.
    outlasting(lambda: settle(domain, made=bool(pending.proof)))


def _undo(domain: Domain, pending: Pending, error: BaseException) -> None:
    try:
        outlasting(lambda: settle(domain))
    except VmctlError as failure:
        made = pending.made
        raise RollbackError(
            f"the change of '{domain.name}' failed, and not all of it could be undone",
            left=() if made is None else (f"the volume '{made.pool}/{made.name}'",),
            details=f"it failed because: {error}\nthe undoing failed because: {failure}",
            hint="mend the cause, then `vmctl gc` removes what is left",
        ) from error


def settle(domain: Domain, *, made: bool = False) -> None:
    """Finish a change that was made, or take back what was made for one that was not.

    Addresses that are kept for NICs that it does not have are free again.

    Args:
        domain: The machine, within `changing`.
        made: Whether the change is known to be made; else the definition tells.
    """
    record = domain.record()
    if record is None or record.pending is None:
        _free_addresses(domain)
        return
    pending = record.pending
    done = made or _is_made(domain, pending)
    leaving = pending.gone if done else pending.made
    stays = leaving is not None and not done and _runs_on(domain, leaving)
    if leaving is not None and not stays and (not done or pending.deletes):
        StoredVolume(domain.connection, leaving.pool, leaving.name).delete()
    domain.update_record(
        pending=None,
        spec=pending.spec if done else record.spec,
        volumes=tuple(entry for entry in record.volumes if stays or entry != leaving),
        bases=tuple(base for base in record.bases if done or base != pending.base),
    )
    _free_addresses(domain)


def unneeded_addresses(domain: Domain, record: Record) -> tuple[ReservedAddress, ...]:
    """Return what networks keep for NICs that the machine has there neither now nor later."""
    if not record.addresses:
        return ()
    roots = [hotplug.definition(domain, later=True)]
    if domain.is_active():
        roots.append(hotplug.definition(domain, later=False))
    plugged = set().union(*map(hotplug.plugged_in, roots))
    return tuple(entry for entry in record.addresses if (entry.mac, entry.network) not in plugged)


def _free_addresses(domain: Domain) -> None:
    record = domain.record()
    gone = () if record is None else unneeded_addresses(domain, record)
    if record is None or not gone:
        return
    for entry in gone:
        reservations.release(domain, entry)
    domain.update_record(addresses=tuple(kept for kept in record.addresses if kept not in gone))


def _is_made(domain: Domain, pending: Pending) -> bool:
    root = hotplug.definition(domain, later=True)
    if pending.proof:
        return bool(root.xpath(pending.proof))
    return hotplug.mentions(root, pending.device) == pending.present


def _runs_on(domain: Domain, volume: OwnedVolume) -> bool:
    """Return whether the running machine has a volume that its definition has not."""
    path = open_pool(domain.connection, volume.pool).path_of(volume.name)
    return domain.is_active() and hotplug.mentions(hotplug.definition(domain, later=False), path)
