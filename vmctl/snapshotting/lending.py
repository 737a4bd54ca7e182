"""A snapshot that a clone is going to lie on: it is of use if the clone is made, and only then.

It is a whole one, so that nothing but the record tells why it is there. The record says so before
it is taken, and no more as soon as the clone is whole. A client that is killed in between leaves
that word, by which it is found, and deleted.
"""

from __future__ import annotations

from vmctl import detours
from vmctl.changes import changing
from vmctl.hypervisor import snapshots
from vmctl.hypervisor.claims import Claim
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.exports import refuse_while_exported
from vmctl.hypervisor.metadata import Loan, Record
from vmctl.snapshotting import merging

__all__ = ["abandoned", "hand_over", "lend", "settle"]


def lend(domain: Domain, snapshot: str, claim: Claim) -> None:
    """Record that a snapshot is going to be taken for a clone.

    Args:
        domain: The machine.
        snapshot: Its name, which no snapshot has.
        claim: Who makes the clone.
    """
    with changing(domain) as record:
        domain.update_record(lent=(*record.lent, Loan(snapshot=snapshot, claim=claim)))


def hand_over(domain: Domain, snapshot: str) -> None:
    """Forget that: the clone is whole and lies on it, or it is gone."""
    record = domain.record()
    if record is not None and any(loan.snapshot == snapshot for loan in record.lent):
        kept = tuple(loan for loan in record.lent if loan.snapshot != snapshot)
        domain.update_record(lent=kept)


def abandoned(domain: Domain, record: Record) -> tuple[Loan, ...]:
    """Return the snapshots that were taken for clones which nobody makes any more.

    One that something lies on is none of them: its clone came to be whole.
    """
    names = snapshots.names_of(domain) if record.lent else frozenset()
    return tuple(
        loan
        for loan in record.lent
        if loan.claim.is_abandoned()
        and loan.snapshot in names
        and not merging.held(domain, record, [snapshots.details_of(domain, loan.snapshot)])
    )


def settle(domain: Domain, record: Record) -> None:
    """Delete the snapshots that killed clients took for clones, and forget why they were there.

    Args:
        domain: The machine, which nobody else is at work on.
        record: What vmctl knows of it.

    Raises:
        ConflictError: Its disks are being read.
    """
    ended = [loan.snapshot for loan in record.lent if loan.claim.is_abandoned()]
    if not ended:
        return
    refuse_while_exported(domain.name, record)
    for loan in abandoned(domain, record):
        doomed = [snapshots.details_of(domain, loan.snapshot)]
        merging.delete(domain, detours.look(domain), doomed, progress=None)
    for name in ended:
        hand_over(domain, name)
