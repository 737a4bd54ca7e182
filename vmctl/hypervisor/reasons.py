"""Why a domain is in its state, in the words of ``virsh domstate --reason``.

The numbers are those of ``virDomainRunningReason`` and its like
(https://libvirt.org/html/libvirt-libvirt-domain.html); each tuple counts from 0.
"""

from __future__ import annotations

from vmctl.hypervisor.domains import STATES, Domain, State
from vmctl.hypervisor.errors import calling

__all__ = ["reason_word", "state_and_reason"]

_WORDS: dict[State, tuple[str, ...]] = {
    State.RUNNING: (
        *("", "booted", "migrated", "restored", "from snapshot", "unpaused"),
        *("migration canceled", "save canceled", "event wakeup", "crashed"),
        *("post-copy", "post-copy failed"),
    ),
    State.PAUSED: (
        *("", "user", "migrating", "saving", "dumping", "I/O error", "watchdog"),
        *("from snapshot", "shutting down", "creating snapshot", "crashed", "starting up"),
        *("post-copy", "post-copy failed", "API error"),
    ),
    State.IN_SHUTDOWN: ("", "user"),
    State.SHUT_OFF: (
        *("", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed"),
        *("from snapshot", "daemon"),
    ),
    State.CRASHED: ("", "panicked"),
}


def reason_word(state: State, number: int) -> str:
    """Return the word for a reason; empty where libvirt does not know, or it is a newer one's."""
    words = _WORDS.get(state, ())
    return words[number] if number < len(words) else ""


def state_and_reason(domain: Domain) -> tuple[State, str]:
    """Return a domain's state, and why it is in it."""
    with calling(f"ask for the state of '{domain.name}'"):
        number, reason = domain.raw().state()
    return STATES[number], reason_word(STATES[number], reason)
