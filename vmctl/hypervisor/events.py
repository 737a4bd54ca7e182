"""What libvirt says of its own accord: per machine, as a signal to whoever waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import libvirt

__all__ = ["EventHub", "Signal"]

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


class EventHub:
    """Registers with one connection, once per kind, and passes events on by the machine's UUID."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._signals: dict[str, list[Signal]] = {}

    def attach(self, raw: Any) -> list[int]:
        """Register the callbacks with a connection; returns their numbers."""
        kinds = (
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
            libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
            libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
        )
        numbers = [raw.domainEventRegisterAny(None, kind, self._on_event, kind) for kind in kinds]
        failed = libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED
        return [*numbers, raw.domainEventRegisterAny(None, failed, self._on_refusal, None)]

    def _on_event(self, _conn: object, domain: Any, *details: object) -> None:
        # The last is what was given at the registration, and between are as many as the kind has.
        started = (details[-1], details[0]) == (
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            libvirt.VIR_DOMAIN_EVENT_STARTED,
        )
        self.notify(domain.UUIDString(), started=started)

    def _on_refusal(self, _conn: object, domain: Any, alias: str, _opaque: object) -> None:
        uuid = domain.UUIDString()
        with self._lock:
            for signal in self._signals.get(uuid, ()):
                signal.refused.add(alias)
        self.notify(uuid)

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
