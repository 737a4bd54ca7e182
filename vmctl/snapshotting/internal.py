"""Internal snapshots taken and deleted, as transactions.

libvirt goes from disk to disk with both, and notes at the end what it did. So one that was cut off
may lie in one disk and not in the other, with libvirt knowing of it or not. A deletion is gone on
with; of one that was being taken, and that libvirt doesn't know, all that is there is deleted.
"""

from __future__ import annotations

from dataclasses import replace

from vmctl import detours
from vmctl.hypervisor import snapshots
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.jobs import wait_for_job
from vmctl.hypervisor.metadata import Phase, Record, SnapshotWork
from vmctl.hypervisor.snapshots import SnapshotFacts
from vmctl.progress import being_undone

__all__ = ["delete", "settle", "take"]

# Longer than the writing of any memory takes.
_CLAIM_SECONDS = 7200.0


def take(domain: Domain, xml: str, *, name: str, seen: detours.Seen) -> SnapshotFacts:
    """Take an internal snapshot, with the memory of a running machine.

    Args:
        domain: The machine, which nobody is at work on.
        xml: The snapshot's XML.
        name: Its name.
        seen: The machine, as it was when this was decided.
    """
    with claimed(_CLAIM_SECONDS) as claim:
        work = SnapshotWork(snapshot=name, inside=True)
        detours.begin(domain, Phase.SNAPSHOTTING, claim, seen=seen, work=work)
        try:
            return snapshots.create(domain, xml, name=name)
        finally:
            with being_undone():
                outlasting(lambda: _settle_if_there(domain))


def delete(domain: Domain, name: str) -> None:
    """Delete an internal snapshot from all disks; what was taken after it stays."""
    with claimed(_CLAIM_SECONDS) as claim:
        work = SnapshotWork(snapshot=name, inside=True)
        detours.begin(domain, Phase.MERGING, claim, work=work)
        try:
            snapshots.delete(domain, name)
        finally:
            with being_undone():
                outlasting(lambda: _settle_if_there(domain))


def _settle_if_there(domain: Domain) -> None:
    record = domain.record() if domain.exists() else None
    if record is not None and record.work is not None and record.work.inside:
        settle(domain, record)


def settle(domain: Domain, record: Record) -> None:
    """Let a snapshot be in all disks, or in none, that somebody began to take or to delete.

    Args:
        domain: The machine.
        record: Its record, which says what was begun.
    """
    wait_for_job(domain)
    record = domain.record() or record
    work = record.work
    if work is None or not work.inside:
        return
    known = snapshots.exists(domain, work.snapshot)
    if record.phase is Phase.SNAPSHOTTING and not known:
        # From here on it is deleted, whoever knows of it.
        record = replace(record, phase=Phase.MERGING)
        domain.write_record(record)
        snapshots.know_internal(domain, work.snapshot)
        known = True
    if record.phase is Phase.MERGING and known:
        snapshots.delete(domain, work.snapshot)
    detours.end(domain, record, work=None)
