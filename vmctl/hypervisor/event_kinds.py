"""What can happen to machines, and how libvirt's callbacks say it.

The numbers are those of libvirt's enums, ``virDomainEventType`` and the ones after it
(https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainEventType); each tuple counts from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import libvirt

__all__ = ["ALWAYS_TOLD", "MORE_IDS", "WAITED_FOR_IDS", "Event", "EventKind", "decode", "synthetic"]


class EventKind(StrEnum):
    """What happened."""

    DEFINED = "defined"
    """It was made, or its definition changed."""
    UNDEFINED = "undefined"
    """Its definition is gone; one that runs ends when it stops."""
    STARTED = "started"
    SUSPENDED = "suspended"
    """Its processors stand still."""
    RESUMED = "resumed"
    SHUTDOWN = "shutdown"
    """Its guest has shut down; QEMU is about to end."""
    STOPPED = "stopped"
    PM_SUSPENDED = "pm-suspended"
    """The guest put itself to sleep."""
    CRASHED = "crashed"
    """The guest's kernel panicked."""
    REBOOT = "reboot"
    """The guest was reset; QEMU runs on."""
    WATCHDOG = "watchdog"
    """The guest did not feed its watchdog; the detail is what was done about it."""
    IO_ERROR = "io-error"
    """A disk could not be read or written."""
    AGENT_CONNECTED = "agent-connected"
    AGENT_DISCONNECTED = "agent-disconnected"
    BLOCK_JOB = "block-job"
    """A job on a disk ended, or is ready to."""
    DEVICE_ADDED = "device-added"
    DEVICE_REMOVED = "device-removed"
    DEVICE_REMOVAL_FAILED = "device-removal-failed"
    """The guest did not let go of a device."""
    TRAY = "tray"
    """A drive was opened or closed."""
    BALLOON = "balloon"
    """The guest's memory has another size."""
    METADATA = "metadata"
    """What is written about the machine changed: vmctl's record, say."""
    CONNECTION_LOST = "connection-lost"
    """From now on nothing is heard."""
    CONNECTION_REGAINED = "connection-regained"
    """What happened since it was lost was not heard: look at the machines' states."""
    OVERFLOW = "overflow"
    """More happened than was taken; so many events, the oldest ones, were thrown away."""


ALWAYS_TOLD = frozenset(
    {EventKind.CONNECTION_LOST, EventKind.CONNECTION_REGAINED, EventKind.OVERFLOW}
)
"""Those that say that others may be missing: nobody can choose not to hear them."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        time: When the client heard of it: ISO 8601, UTC, with milliseconds.
        kind: What happened.
        name: The machine's name; empty where it happened to the connection.
        uuid: Its UUID.
        detail: More of it, for people: ``destroyed``, ``guest request``, ``vdb``.
        raw: What libvirt gave, by its own names.
    """

    time: str
    kind: EventKind
    name: str = ""
    uuid: str = ""
    detail: str = ""
    raw: dict[str, Any] = field(default_factory=dict)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def synthetic(kind: EventKind, detail: str = "", **raw: Any) -> Event:
    """Return an event that is not libvirt's."""
    return Event(time=_now(), kind=kind, detail=detail, raw=raw)


_SNAPSHOT = "from snapshot"
_LIFECYCLE: tuple[tuple[EventKind, tuple[str, ...]], ...] = (
    (EventKind.DEFINED, ("added", "updated", "renamed", _SNAPSHOT)),
    (EventKind.UNDEFINED, ("removed", "renamed")),
    (EventKind.STARTED, ("booted", "migrated", "restored", _SNAPSHOT, "event wakeup")),
    (
        EventKind.SUSPENDED,
        (
            *("paused", "migrated", "I/O error", "watchdog", "restored", _SNAPSHOT),
            *("API error", "post-copy", "post-copy failed"),
        ),
    ),
    (
        EventKind.RESUMED,
        ("unpaused", "migrated", _SNAPSHOT, "post-copy", "post-copy failed"),
    ),
    (
        EventKind.STOPPED,
        ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", _SNAPSHOT),
    ),
    (EventKind.SHUTDOWN, ("finished", "guest request", "host request")),
    (EventKind.PM_SUSPENDED, ("memory", "disk")),
    (EventKind.CRASHED, ("panicked", "crash loaded")),
)
_WATCHDOG = ("none", "pause", "reset", "poweroff", "shutdown", "debug", "inject-nmi")
_IO_ACTION = ("none", "pause", "report")
_JOB = ("unknown", "pull", "copy", "commit", "active commit", "backup")
_JOB_STATUS = ("completed", "failed", "canceled", "ready")
_AGENT = {1: EventKind.AGENT_CONNECTED, 2: EventKind.AGENT_DISCONNECTED}
_AGENT_REASON = ("", "domain started", "channel")
_METADATA = ("description", "title", "element")
_TRAY = ("open", "close")

_Said = tuple[EventKind, str, dict[str, Any]]


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if 0 <= number < len(words) else f"number {number}"


def _lifecycle(event: int, detail: int) -> _Said | None:
    if event >= len(_LIFECYCLE):  # a newer libvirt's
        return None
    kind, words = _LIFECYCLE[event]
    return kind, _word(words, detail), {"event": event, "detail": detail}


def _agent(state: int, reason: int) -> _Said | None:
    if state not in _AGENT:
        return None
    return _AGENT[state], _word(_AGENT_REASON, reason), {"state": state, "reason": reason}


def _io_error(path: str, alias: str, action: int, reason: str) -> _Said:
    detail = f"{path or alias}: {reason or 'error'}, {_word(_IO_ACTION, action)}"
    raw = {"srcPath": path, "devAlias": alias, "action": action, "reason": reason}
    return EventKind.IO_ERROR, detail, raw


def _block_job(disk: str, kind: int, status: int) -> _Said:
    detail = f"{disk}: {_word(_JOB, kind)} {_word(_JOB_STATUS, status)}"
    return EventKind.BLOCK_JOB, detail, {"disk": disk, "type": kind, "status": status}


def _metadata(kind: int, uri: str | None) -> _Said:
    raw = {"type": kind, "nsuri": uri or ""}
    return EventKind.METADATA, uri or _word(_METADATA, kind), raw


def _device(kind: EventKind) -> Callable[..., _Said]:
    return lambda alias: (kind, alias, {"devAlias": alias})


_DECODERS: dict[int, Callable[..., _Said | None]] = {
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: _lifecycle,
    libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: _agent,
    libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: lambda: (EventKind.REBOOT, "", {}),
    libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG: lambda action: (
        EventKind.WATCHDOG,
        _word(_WATCHDOG, action),
        {"action": action},
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: _io_error,
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2: _block_job,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: _device(EventKind.DEVICE_ADDED),
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: _device(EventKind.DEVICE_REMOVED),
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: _device(EventKind.DEVICE_REMOVAL_FAILED),
    libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE: lambda alias, reason: (
        EventKind.TRAY,
        f"{alias}: {_word(_TRAY, reason)}",
        {"devAlias": alias, "reason": reason},
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE: lambda kib: (
        EventKind.BALLOON,
        f"{kib} KiB",
        {"actual": kib},
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: _metadata,
}

WAITED_FOR_IDS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
    libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
)
"""libvirt's numbers of the events that vmctl's own verbs wait for; they are always asked for."""

MORE_IDS = tuple(number for number in _DECODERS if number not in WAITED_FOR_IDS)
"""The numbers of those that are only asked for while somebody listens to all."""


def decode(number: int, domain: Any, details: tuple[Any, ...]) -> Event | None:
    """Return what a callback of libvirt's says; None for what this vmctl has no word for.

    Args:
        number: ``VIR_DOMAIN_EVENT_ID_*``.
        domain: libvirt's handle.
        details: The callback's arguments between the domain and the opaque one.
    """
    said = _DECODERS[number](*details)
    if said is None:
        return None
    kind, detail, raw = said
    return Event(
        time=_now(),
        kind=kind,
        name=domain.name(),
        uuid=domain.UUIDString(),
        detail=detail,
        raw=raw,
    )
