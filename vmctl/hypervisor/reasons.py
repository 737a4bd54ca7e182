"""Why a domain is in its state, in the words of ``virsh domstate --reason``."""

from __future__ import annotations

import libvirt

from vmctl.hypervisor.domains import STATES, Domain, State
from vmctl.hypervisor.errors import calling

__all__ = ["REASONS", "reason_word", "state_and_reason"]

REASONS: dict[State, dict[int, str]] = {
    State.RUNNING: {
        libvirt.VIR_DOMAIN_RUNNING_BOOTED: "booted",
        libvirt.VIR_DOMAIN_RUNNING_MIGRATED: "migrated",
        libvirt.VIR_DOMAIN_RUNNING_RESTORED: "restored",
        libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT: "from snapshot",
        libvirt.VIR_DOMAIN_RUNNING_UNPAUSED: "unpaused",
        libvirt.VIR_DOMAIN_RUNNING_MIGRATION_CANCELED: "migration canceled",
        libvirt.VIR_DOMAIN_RUNNING_SAVE_CANCELED: "save canceled",
        libvirt.VIR_DOMAIN_RUNNING_WAKEUP: "event wakeup",
        libvirt.VIR_DOMAIN_RUNNING_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_RUNNING_POSTCOPY: "post-copy",
        11: "post-copy failed",  # VIR_DOMAIN_RUNNING_POSTCOPY_FAILED, from libvirt 8.5 on
    },
    State.PAUSED: {
        libvirt.VIR_DOMAIN_PAUSED_USER: "user",
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "migrating",
        libvirt.VIR_DOMAIN_PAUSED_SAVE: "saving",
        libvirt.VIR_DOMAIN_PAUSED_DUMP: "dumping",
        libvirt.VIR_DOMAIN_PAUSED_IOERROR: "I/O error",
        libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "watchdog",
        libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT: "from snapshot",
        libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: "shutting down",
        libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "creating snapshot",
        libvirt.VIR_DOMAIN_PAUSED_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: "starting up",
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: "post-copy",
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: "post-copy failed",
    },
    State.IN_SHUTDOWN: {libvirt.VIR_DOMAIN_SHUTDOWN_USER: "user"},
    State.SHUT_OFF: {
        libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "shutdown",
        libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "destroyed",
        libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: "migrated",
        libvirt.VIR_DOMAIN_SHUTOFF_SAVED: "saved",
        libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "failed",
        libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: "from snapshot",
        libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: "daemon",
    },
    State.CRASHED: {libvirt.VIR_DOMAIN_CRASHED_PANICKED: "panicked"},
}
"""By state and libvirt's number (``virDomainRunningReason`` ...); what is missing has no word.

https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainShutoffReason
"""


def reason_word(state: State, number: int) -> str:
    """Return the word for a reason; empty where libvirt does not know, or it is a newer one's.

    libvirt does not know it of a machine that was off already when libvirtd started.
    """
    return REASONS.get(state, {}).get(number, "")


def state_and_reason(domain: Domain) -> tuple[State, str]:
    """Return a domain's state, and why it is in it."""
    raw = domain.raw()
    with calling(f"ask for the state of '{domain.name}'"):
        number, reason = raw.state()
    return STATES[number], reason_word(STATES[number], reason)
