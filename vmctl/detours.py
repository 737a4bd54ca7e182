"""Work on the disks of a machine that is whole: it goes through a phase of its own, and comes back.

The record says the phase, who is at it, and the phase that the machine goes back to, before
anything is done. So whoever comes after a client that was killed can settle what it began. Some of
this work is QEMU's; where the machine is off, QEMU is started for it with its processors paused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vmctl.changes import changing
from vmctl.errors import ConflictError
from vmctl.hypervisor import hotplug, networks, snapshots
from vmctl.hypervisor.claims import Claim
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.lost import looking_for_lost
from vmctl.hypervisor.lost_backups import refuse_lost
from vmctl.hypervisor.metadata import OwnedVolume, Phase, Record
from vmctl.progress import being_undone

__all__ = [
    "Seen",
    "begin",
    "end",
    "look",
    "refuse_work_in_progress",
    "settled_afterwards",
    "wake",
]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A machine as it was when work on it was planned, before anybody was kept out.

    Attributes:
        record: What vmctl knew of it.
        active: Whether QEMU was there for it.
        disks: The files under its disks, running and at its next start.
        snapshots: The names of its snapshots.
    """

    record: Record
    active: bool
    disks: frozenset[tuple[bool, str, str]]
    snapshots: frozenset[str]

    def is_still(self, now: Seen) -> bool:
        """Return whether a plan holds that was made by it."""
        mine = (self.active, self.disks, self.snapshots, self.record.spec)
        return mine == (now.active, now.disks, now.snapshots, now.record.spec)


def look(domain: Domain) -> Seen:
    """Look at what plans are made of.

    Raises:
        ConflictError: vmctl did not make the machine.
    """
    record = domain.record()
    if record is None:
        raise ConflictError(
            f"the machine '{domain.name}' was not made by vmctl",
            hint="vmctl changes only what it made; use virsh for this one",
        )
    active = domain.is_active()
    return Seen(
        record=record,
        active=active,
        disks=frozenset(
            (later, hotplug.identity_of(node), hotplug.source_of(node))
            for later in ((False, True) if active else (True,))
            for node in hotplug.device_nodes(hotplug.definition(domain, later=later), "disk")
        ),
        snapshots=snapshots.names_of(domain),
    )


def refuse_work_in_progress(domain: Domain, record: Record) -> None:
    """Refuse to begin on a machine that is not whole, or that somebody is at work on.

    Raises:
        ConflictError: It is so.
    """
    if record.phase in {Phase.CREATING, Phase.DELETING} or record.claim is not None:
        raise ConflictError(
            f"somebody is at work on '{domain.name}': it is {record.phase.value}",
            hint="wait until that has ended; `vmctl gc` removes what a killed client left",
        )


def begin(
    domain: Domain,
    phase: Phase,
    claim: Claim,
    *,
    seen: Seen | None = None,
    wakes: bool = False,
    makes: Iterable[OwnedVolume] = (),
    **changes: Any,
) -> bool:
    """Record that a machine goes through a phase, when nobody changes its devices.

    Args:
        domain: The machine.
        phase: Which.
        claim: Who is at work.
        seen: The machine as it was when the work was planned; None where it is planned later.
        wakes: Whether that needs QEMU.
        makes: Volumes that are going to be made for it, and are the machine's.
        changes: What else is another in its record from now on.

    Returns:
        Whether QEMU has to be started for that alone; see `wake`.

    Raises:
        ConflictError: Somebody is at work on it, or has been since it was looked at.
        WrongStateError: libvirt lost a backup of it, and can't begin anything else.
    """
    with changing(domain) as record:
        if seen is not None and not seen.is_still(look(domain)):
            raise ConflictError(
                f"somebody else changed, started or stopped '{domain.name}' in the same moment",
                hint="nothing was done; look at it, and try again",
            )
        refuse_lost(domain)
        woken = wakes and not domain.is_active()
        volumes = tuple(dict.fromkeys((*record.volumes, *makes)))
        domain.update_record(
            phase=phase,
            before=record.phase,
            woken=woken,
            claim=claim,
            volumes=volumes,
            **changes,
        )
        # In a pool that is full nobody is kept out: then it is left to whoever recorded it later.
        if (domain.record() or record).claim != claim:
            raise ConflictError(
                f"somebody else began to work on '{domain.name}' in the same moment",
                hint="wait until that has ended",
            )
    return woken


def wake(domain: Domain) -> None:
    """Start QEMU with its processors paused, and the networks that its NICs need."""
    started: tuple[str, ...] = ()
    for name in domain.networks():
        if not networks.is_active(domain.connection, name):
            started = (*started, name)
            domain.update_record(started_networks=started)
            networks.ensure_active(domain.connection, name)
    with looking_for_lost(domain):
        domain.start(paused=True)


def end(domain: Domain, record: Record, **changes: Any) -> None:
    """Bring a machine back to the phase that it was in, and end QEMU if `wake` started it.

    Args:
        domain: The machine.
        record: What vmctl knows of it by now.
        changes: What is another in its record from now on.
    """
    # Somebody may have let it run meanwhile: then it is a running machine.
    if record.woken and domain.state() is State.PAUSED:
        domain.destroy()
    for name in record.started_networks:
        networks.stop_unused(domain.connection, name)
    domain.update_record(
        phase=record.before or Phase.READY,
        before=None,
        woken=False,
        claim=None,
        started_networks=(),
        **changes,
    )


@contextmanager
def settled_afterwards(domain: Domain, settle: Callable[[Domain], object]) -> Iterator[None]:
    """Bring a piece of work to its end when the block ends, however that does.

    A libvirtd that is just started again is waited for, and a machine that is gone is left alone.

    Args:
        domain: The machine, which is in a phase of its own.
        settle: Brings it back, forward or back as far as the work has come.
    """
    try:
        yield
    except BaseException:
        with being_undone():
            outlasting(lambda: settle(domain) if domain.exists() else None)
        raise
    with being_undone():
        outlasting(lambda: settle(domain))
