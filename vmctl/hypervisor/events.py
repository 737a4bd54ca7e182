"""What libvirt says of its own accord: as a signal to whoever waits, and to listeners."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import libvirt

from vmctl.hypervisor.event_kinds import (
    MORE_IDS,
    WAITED_FOR_IDS,
    Event,
    EventKind,
    decode,
    synthetic,
)

__all__ = ["EventHub", "Listener", "Signal"]

T = TypeVar("T")


class Signal:
    """Wakes a waiter whenever something happened to one machine.

    Attributes:
        refused: The aliases of devices that its guest did not let go of, as far as it was heard.
    """

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self._condition = threading.Condition()
        self._count = 0
        self.saw_start = False
        """Whether the machine was started since this began to listen, as far as was heard."""

    def notify(self, *, started: bool = False) -> None:
        """Say that something happened; ``started``: that the machine was started."""
        with self._condition:
            self._count += 1
            self.saw_start = self.saw_start or started
            self._condition.notify_all()

    def wait_for(
        self, check: Callable[[], T | None], *, deadline: float, recheck: float = 1.0
    ) -> T | None:
        """Return the first value of ``check`` that is not None, or None at the deadline.

        Events only make it look sooner: what counts is the answer of ``check``, which is asked
        again at least every ``recheck`` seconds, so that a lost event loses nothing.

        Args:
            check: Looks at the facts.
            deadline: A time of `time.monotonic`.
            recheck: Seconds between two looks when nothing is heard.
        """
        while True:
            with self._condition:
                seen = self._count
            value = check()
            if value is not None:
                return value
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            with self._condition:
                if self._count == seen:
                    self._condition.wait(min(left, recheck))


class Listener(Protocol):
    """Takes events as they come, and never waits."""

    def put(self, event: Event) -> None:
        """Take one."""

    def end(self) -> None:
        """Hear that no more will come."""


class EventHub:
    """Registers with one connection, once per kind, and passes events on.

    Those who wait for one machine get a signal; listeners get the events themselves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._signals: dict[str, list[Signal]] = {}
        self._listeners: list[Listener] = []
        self.connected = False

    def attach(self, raw: Any) -> list[int]:
        """Register with a connection what is always needed; returns the callbacks' numbers."""
        ids = WAITED_FOR_IDS
        return [raw.domainEventRegisterAny(None, kind, self._on_event, kind) for kind in ids]

    def attach_more(self, raw: Any) -> list[int]:
        """Register what only listeners need; returns the callbacks' numbers."""
        return [raw.domainEventRegisterAny(None, kind, self._on_event, kind) for kind in MORE_IDS]

    def _on_event(self, _conn: object, domain: Any, *details: Any) -> None:
        *said, kind = details
        uuid = domain.UUIDString()
        if kind == libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED:
            self._note_refusal(uuid, alias=said[0])
        is_lifecycle = kind == libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        started = is_lifecycle and said[0] == libvirt.VIR_DOMAIN_EVENT_STARTED
        self.notify(uuid, started=started)
        if self._listeners:
            event = decode(kind, domain, tuple(said))
            if event is not None:
                self._publish(event)

    def _publish(self, event: Event) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.put(event)

    def opened(self) -> None:
        """Hear that the connection is there, perhaps again."""
        with self._lock:
            again, self.connected = not self.connected, True
        if again:
            self._publish(
                synthetic(EventKind.CONNECTION_REGAINED, "events may have been missed meanwhile")
            )

    def lost(self) -> None:
        """Hear that the connection broke. Whoever notices says so; it is told once."""
        with self._lock:
            was, self.connected = self.connected, False
        if was:
            self._publish(synthetic(EventKind.CONNECTION_LOST))
            self.notify_all()

    def closed(self) -> None:
        """Hear that the connection was closed for good: nothing more will come."""
        with self._lock:
            self.connected = False
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.end()
        self.notify_all()

    def add(self, listener: Listener) -> bool:
        """Pass events to a listener; returns whether it is the first one."""
        with self._lock:
            self._listeners.append(listener)
            return len(self._listeners) == 1

    def remove(self, listener: Listener) -> bool:
        """Leave a listener out from now on; returns whether it was the last one."""
        with self._lock:
            if listener not in self._listeners:
                return False
            self._listeners.remove(listener)
            return not self._listeners

    @property
    def has_listeners(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def _note_refusal(self, uuid: str, *, alias: str) -> None:
        with self._lock:
            for signal in self._signals.get(uuid, ()):
                signal.refused.add(alias)

    def notify(self, uuid: str, *, started: bool = False) -> None:
        """Wake everybody who waits for the machine; ``started``: because it was started."""
        with self._lock:
            signals = list(self._signals.get(uuid, ()))
        for signal in signals:
            signal.notify(started=started)

    def notify_all(self) -> None:
        """Wake everybody: the connection changed, so anything may have happened."""
        with self._lock:
            signals = [signal for group in self._signals.values() for signal in group]
        for signal in signals:
            signal.notify()

    @contextmanager
    def listening(self, uuid: str) -> Iterator[Signal]:
        """Give a signal that hears of the machine while the block runs."""
        signal = Signal()
        with self._lock:
            self._signals.setdefault(uuid, []).append(signal)
        try:
            yield signal
        finally:
            with self._lock:
                group = self._signals[uuid]
                group.remove(signal)
                if not group:
                    del self._signals[uuid]
