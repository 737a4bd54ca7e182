"""Starting a machine, with what belongs to it: networks, forwarded ports, a saved state."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from vmctl import group_members, nic_filters
from vmctl.errors import (
    GuestUnreachableError,
    HypervisorError,
    UnsupportedError,
    VmctlError,
    WrongStateError,
)
from vmctl.guest import ports
from vmctl.hypervisor import networks, runs, saves
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.lost import looking_for_lost
from vmctl.hypervisor.sharing import refuse_disks_in_use
from vmctl.progress import Phase
from vmctl.tenancy import refuse_foreign_networks

__all__ = ["StartReport", "go_on", "refuse_saved", "start"]

# The agent's channel is open again within a second of a restore.
_AGENT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class StartReport:
    """How a machine came to run.

    Attributes:
        how: ``booted``, ``restored`` (it went on from its saved state), ``resumed`` (it was
            paused), or ``was running``.
        clock: Of a restored guest, ``set``, or why its clock still shows the time of the save.
    """

    how: str
    clock: str = ""


def start(
    domain: Domain,
    spec: dict[str, Any],
    *,
    discard_saved: bool = False,
    phase: Phase | None = None,
) -> StartReport:
    """Start a machine, with its networks, and open the ports that its spec forwards.

    Args:
        domain: The machine, which is off.
        spec: Its recorded spec.
        discard_saved: Whether to boot it though it has a saved state, which is lost.
        phase: Told what is done.

    Raises:
        NotFoundError: A network is gone.
        UnsupportedError: A network is not active and can't be started.
        ConflictError: A network became another tenant's, a port is in use, or another machine that
            runs has a disk of it; the machine is as it was, its saved state too.
        HypervisorError: Its saved state fits no more; the machine is as it was.
        WrongStateError: Its QEMU is there, and libvirt has lost it.
    """
    if any(disk.get("volume") or disk.get("network") for disk in spec.get("disks") or ()):
        # What was made for it alone, nobody else has.
        refuse_disks_in_use(domain)
    joined = domain.networks()
    tenant = str(spec.get("tenant") or "")
    refuse_foreign_networks(domain.connection, domain.name, tenant, joined)
    for name in joined:
        networks.ensure_active(domain.connection, name)
    nic_filters.ensure_recorded(domain, spec)
    # It may have other addresses than when it was off last: those were of its run.
    group_members.refresh(domain.connection, group_members.groups_of(spec))
    restored = not discard_saved and saves.has_saved_state(domain)
    if restored and phase is not None:
        phase.update("going on from its saved state")
    with looking_for_lost(domain):
        if restored:
            _restore(domain)
        elif discard_saved:
            saves.start_anew(domain)
        else:
            domain.start()
    runs.note_start(domain)
    try:
        ports.open_all(domain, spec)
    except VmctlError:
        if restored:
            saves.save(domain, tell=lambda _fraction: None)
        else:
            domain.destroy()
        raise
    if not restored:
        return StartReport(how="booted")
    # One that was saved while it was paused is paused still.
    go_on(domain, domain.state())
    return StartReport(how="restored", clock=_set_clock(domain))


def _restore(domain: Domain) -> None:
    try:
        domain.start()
    except (HypervisorError, UnsupportedError, WrongStateError) as error:
        if not saves.has_saved_state(domain):
            raise
        raise HypervisorError(
            f"'{domain.name}' can't go on from its saved state, which is kept",
            code=getattr(error, "code", 0),
            details=error.details or error.brief,
            hint="mend the cause and start it again; or give up what was in its memory: "
            f"`vmctl start --discard-saved {domain.name}`",
        ) from error


def _set_clock(domain: Domain) -> str:
    """Set the clock of a guest that was restored; returns ``set``, or why not."""
    failure = "it has no agent"

    def attempt() -> str | None:
        nonlocal failure
        try:
            saves.set_clock(domain)
        except GuestUnreachableError as error:
            failure = error.details.split("\n")[0] or error.brief
            return None
        except VmctlError as error:
            # It answers, and can't: asking again is of no use.
            return error.details.split("\n")[0] or error.brief
        return "set"

    if "org.qemu.guest_agent" not in domain.xml():
        return failure
    with domain.connection.events.listening(domain.uuid) as signal:
        deadline = time.monotonic() + _AGENT_SECONDS
        return signal.wait_for(attempt, deadline=deadline) or failure


def go_on(domain: Domain, state: State) -> None:
    """Let a paused machine run on."""
    if state is State.PAUSED:
        domain.resume()


def refuse_saved(domain: Domain, verb: str) -> None:
    """Refuse what would change the disks under a guest that goes on from its memory.

    Raises:
        WrongStateError: There is a saved state.
    """
    if saves.has_saved_state(domain):
        raise WrongStateError(
            f"'{domain.name}' has a saved state: it can't be {verb} before it went on",
            state="saved",
            hint=f"start it, or give what was in its memory up: "
            f"`vmctl discard-saved {domain.name}`",
        )
