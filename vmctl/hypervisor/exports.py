"""A machine whose disks are being read: its record says so, that nobody changes them meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from vmctl.errors import ConflictError, HostUnavailableError, NotFoundError
from vmctl.hypervisor.claims import Claim, claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.metadata import Record
from vmctl.progress import being_undone

__all__ = ["being_exported", "refuse_while_exported"]

# Whoever was killed on another machine blocks this one for so long. A longer export than that is
# no worse off than against virsh: what changed is seen at its end.
_CLAIM_SECONDS = 7200.0


@contextmanager
def being_exported(
    domain: Domain,
    *,
    alone: Callable[[Record], AbstractContextManager[None]],
    wait: float = 0.0,
) -> Iterator[None]:
    """Say in a machine's record, while the block runs, that its disks are being read.

    vmctl's own verbs are refused meanwhile, another export too; virsh does not ask.

    Args:
        domain: The machine.
        alone: Keeps others from beginning with the machine, whose record it is given, while that is
            written down.
        wait: Seconds to wait for somebody else who reads them.

    Raises:
        ConflictError: Somebody else is exporting it, or at work on it, or vmctl did not make it.
    """
    with claimed(_CLAIM_SECONDS) as claim:

        def taken() -> bool | None:
            if _is_anothers(_record_of(domain), claim):
                return None
            with alone(_record_of(domain)):
                record = _record_of(domain)
                if _is_anothers(record, claim):
                    return None
                _refuse_at_work(domain, record)
                domain.update_record(exported_by=claim)
            # In a pool that is full nobody is kept out: then the record has the later one.
            return None if _is_anothers(_record_of(domain), claim) else True

        try:
            if Signal().wait_for(taken, deadline=time.monotonic() + wait, recheck=0.2) is None:
                _refuse_another(domain, claim)
            yield
        finally:
            # From the end of the outer block on nobody is behind the claim: where the host can't be
            # reached, it lapses by itself.
            with being_undone(), suppress(NotFoundError, HostUnavailableError):
                outlasting(lambda: _release(domain, claim))


def _record_of(domain: Domain) -> Record:
    record = domain.record()
    if record is None:
        raise ConflictError(
            f"the machine '{domain.name}' was not made by vmctl",
            hint="vmctl reads only what it made; use virsh for this one",
        )
    return record


def _is_anothers(record: Record, claim: Claim) -> bool:
    other = record.exported_by
    return other is not None and other != claim and not other.is_abandoned()


def _refuse_at_work(domain: Domain, record: Record) -> None:
    if record.claim is not None and not record.claim.is_abandoned():
        raise ConflictError(
            f"somebody is at work on '{domain.name}': it is {record.phase.value}",
            hint="wait until that has ended; `vmctl gc` removes what a killed client left",
        )


def _refuse_another(domain: Domain, claim: Claim) -> None:
    record = domain.record()
    if record is not None and record.exported_by != claim:
        refuse_while_exported(domain.name, record)


def _release(domain: Domain, claim: Claim) -> None:
    record = domain.record()
    if record is not None and record.exported_by == claim:
        domain.update_record(exported_by=None)


def refuse_while_exported(name: str, record: Record) -> None:
    """Refuse to change a machine whose disks are being read.

    Raises:
        ConflictError: They are.
    """
    claim = record.exported_by
    if claim is not None and not claim.is_abandoned():
        raise ConflictError(
            f"'{name}' is being exported or cloned by process {claim.pid} on {claim.client}",
            hint="wait until that has ended, or end it",
        )
