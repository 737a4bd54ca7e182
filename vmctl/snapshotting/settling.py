"""Snapshots and reverts that a killed client left in the middle."""

from __future__ import annotations

from vmctl.hypervisor import snapshots
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import OwnedVolume, Phase, Record
from vmctl.snapshotting import creating, internal, lending, merging, reverting

__all__ = ["left_over", "settle", "settle_abandoned"]


def settle(domain: Domain, record: Record) -> None:
    """Bring to an end what somebody began with snapshots who is not there any more."""
    if record.work is not None and record.work.inside:
        internal.settle(domain, record)
    elif record.phase is Phase.SNAPSHOTTING:
        creating.settle(domain)
    elif record.phase is Phase.REVERTING:
        reverting.settle(domain)
    elif record.phase is Phase.MERGING:
        merging.settle(domain)


def left_over(domain: Domain, record: Record) -> tuple[OwnedVolume, ...]:
    """Return the volumes that `settle` is going to remove; some may never have existed."""
    work = record.work
    if work is None or record.phase is Phase.MERGING:
        return ()
    if record.phase is Phase.SNAPSHOTTING:
        return () if snapshots.exists(domain, work.snapshot) else work.made
    return work.going if reverting.is_made(domain, work) else work.made


def settle_abandoned(domain: Domain, record: Record) -> Record:
    """Settle what a killed client left; returns the record as it is then."""
    if record.claim is not None and record.claim.is_abandoned():
        settle(domain, record)
        record = domain.record() or record
    if record.lent and record.claim is None:
        lending.settle(domain, record)
        record = domain.record() or record
    return record
