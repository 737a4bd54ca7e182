"""Work on a whole machine's disks that a killed client left: brought to an end, forward or back."""

from __future__ import annotations

from vmctl import backup_traces, exchanging, flatten
from vmctl.errors import ConflictError
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.snapshotting import settling as snapshotting

__all__ = ["refuse_taken", "settle"]

# What is done in these is done to the machine's power, too, or needs it to stay off.
_UNDISTURBED = frozenset({Phase.SNAPSHOTTING, Phase.REVERTING, Phase.RESTORING})


def settle(domain: Domain, record: Record) -> None:
    """Bring to an end what somebody began who is not there any more."""
    if record.phase is Phase.FLATTENING:
        flatten.settle(domain)
    if record.phase is Phase.BACKING_UP:
        backup_traces.settle(domain)
    if record.phase is Phase.RESTORING:
        exchanging.settle(domain)
    snapshotting.settle(domain, record)


def refuse_taken(domain: Domain, record: Record) -> Record:
    """Keep a machine's power from being changed under work that would not survive it.

    What a killed client left is settled first.

    Returns:
        Its record as it is then.

    Raises:
        ConflictError: Somebody is at such work.
    """
    if not record.phase.is_detour:
        return record
    abandoned = record.claim is None or record.claim.is_abandoned()
    # Whose guest stands still would wait for it in vain.
    stuck = abandoned and record.work is not None and record.work.suspended
    # A job beside a running guest ends with it, and its disk is whole.
    if not record.woken and record.phase not in _UNDISTURBED and not stuck:
        return record
    if not abandoned:
        raise ConflictError(
            f"somebody is {record.phase.value} the disks of '{domain.name}'",
            hint="try again when that has ended",
        )
    settle(domain, record)
    return domain.record() or record
