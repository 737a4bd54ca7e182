"""Listening to events: a bounded queue between libvirt's thread and whoever takes them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from vmctl.errors import HostUnavailableError, PermissionDeniedError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.event_kinds import ALWAYS_TOLD, Event, EventKind, synthetic

__all__ = ["Subscription"]

# A libvirtd that restarts is back by then.
_OUTAGE_SECONDS = 60.0
# Between two tries to open a connection again that was lost.
_RETRY_SECONDS = 0.5


class Subscription:
    """What one listener has not taken yet. What is heard from the moment that it is made counts.

    Args:
        connection: Who is listened to.
        wanted: Says of an event whether it is to be kept; called in libvirt's thread.
        capacity: How many are kept; when more come, the oldest are thrown away.
    """

    def __init__(
        self, connection: Connection, wanted: Callable[[Event], bool], *, capacity: int
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        self._condition = threading.Condition()
        self._capacity = capacity
        self._queue: deque[Event] = deque()
        self._lost = 0
        self._closed = False
        self._away_since: float | None = None
        connection.subscribe(self)

    def put(self, event: Event) -> None:
        """Keep an event; never waits."""
        if event.kind not in ALWAYS_TOLD and not self._wanted(event):
            return
        with self._condition:
            self._queue.append(event)
            if len(self._queue) > self._capacity:
                self._queue.popleft()
                self._lost += 1
            self._condition.notify_all()

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed and not self._queue

    def get(self, deadline: float | None) -> Event | None:
        """Take the next event; None at the deadline, or when it is closed.

        A connection that was lost is opened again meanwhile.

        Args:
            deadline: A time of `time.monotonic`; None waits for ever.

        Raises:
            HostUnavailableError: The host could not be reached again within a minute.
        """
        while True:
            with self._condition:
                if self._lost:
                    lost, self._lost = self._lost, 0
                    return synthetic(EventKind.OVERFLOW, f"{lost} lost", lost=lost)
                if self._queue:
                    return self._queue.popleft()
                if self._closed:
                    return None
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            here = self._connection.events.connected or self._reopen()
            with self._condition:
                if not self._queue and not self._closed:
                    pause = 1.0 if here else _RETRY_SECONDS
                    self._condition.wait(pause if left is None else min(left, pause))

    def _reopen(self) -> bool:
        try:
            self._connection.raw  # noqa: B018 - asking for it opens it
        except PermissionDeniedError:
            raise
        except HostUnavailableError:
            now = time.monotonic()
            self._away_since = self._away_since or now
            if now - self._away_since > _OUTAGE_SECONDS and not self._closed:
                raise
            return False
        self._away_since = None
        return True

    def end(self) -> None:
        """Let nothing more come; what is there can still be taken. Called by the connection."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def close(self) -> None:
        """Listen no more. Closing twice does nothing."""
        self.end()
        self._connection.unsubscribe(self)
