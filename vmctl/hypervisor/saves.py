"""The saved state of a machine that is off: its memory, as libvirt's managed save keeps it."""

from __future__ import annotations

import time
from collections.abc import Callable

import libvirt

from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.jobs import run_job

__all__ = ["discard", "has_saved_state", "save", "set_clock", "start_anew"]


def has_saved_state(domain: Domain) -> bool:
    """Return whether the machine goes on from a saved state when it is started.

    What lies beside a machine that runs was left by a save that was cut off; libvirt passes over
    it, and writes over it.
    """
    raw = domain.raw()
    with calling(f"look for a saved state of '{domain.name}'"):
        return bool(raw.hasManagedSaveImage(0)) and not raw.isActive()


def discard(domain: Domain) -> bool:
    """Remove the saved state; returns whether there was one."""
    raw = domain.raw()
    with calling(f"discard the saved state of '{domain.name}'"):
        if not raw.hasManagedSaveImage(0):
            return False
        try:
            raw.managedSaveRemove(0)
        except libvirt.libvirtError:
            # Somebody else may have been quicker.
            if raw.hasManagedSaveImage(0):
                raise
            return False
    return True


def start_anew(domain: Domain) -> None:
    """Start a machine by booting it; a saved state is discarded."""
    with domain.acting("start") as raw:
        raw.createWithFlags(libvirt.VIR_DOMAIN_START_FORCE_BOOT)


def save(domain: Domain, *, tell: Callable[[float], None]) -> None:
    """Write the machine's memory to the host's disk, and end it.

    On any failure it runs on; so it does when this is interrupted.

    Args:
        domain: The machine, running or paused.
        tell: Told how much is done, from 0 to 1.
    """
    with domain.acting("save the state of") as raw:
        run_job(raw, lambda: raw.managedSave(0), tell=tell)


def set_clock(domain: Domain) -> None:
    """Let the guest's agent set the guest's clock to the time of this client.

    Raises:
        GuestUnreachableError: It has no agent, or that doesn't answer.
    """
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    raw = domain.raw()
    with calling(f"set the clock of '{domain.name}'", on=domain.no_agent):
        raw.setTime({"seconds": seconds, "nseconds": nanoseconds}, 0)
