"""What happens to machines, as it happens: to iterate over, or as calls of one's own function."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from vmctl.errors import NotFoundError, UsageError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.event_kinds import ALWAYS_TOLD, Event, EventKind
from vmctl.hypervisor.subscriptions import Subscription

__all__ = ["Event", "EventKind", "EventListener", "EventStream"]

# After these a machine may be gone, or it may have gone unnoticed.
_MAY_BE_GONE = frozenset(
    {EventKind.UNDEFINED, EventKind.STOPPED, EventKind.CONNECTION_REGAINED, EventKind.OVERFLOW}
)
# Events come by another way than answers.
_LAST_CALL_SECONDS = 1.0


class EventStream(Iterator[Event]):
    """Events to iterate over, from the moment that it is made. Close it, or use it in ``with``.

    One thread takes events from it; `close`, and closing its host, end it from any other.
    """

    def __init__(
        self,
        connection: Connection,
        machines: Iterable[str] = (),
        *,
        domain: Domain | None = None,
        kinds: Iterable[EventKind | str] = (),
        timeout: float | None = None,
        capacity: int = 1000,
    ) -> None:
        names = frozenset(machines)
        self._kinds = _kinds(kinds)
        self._domain = domain
        self._gone = False
        self._told_last = False
        self._deadline = None if timeout is None else time.monotonic() + timeout
        heard = self._kinds | _MAY_BE_GONE if self._kinds and domain else self._kinds

        def wanted(event: Event) -> bool:
            if names and event.name not in names and event.uuid not in names:
                return False
            return not heard or event.kind in heard

        if capacity < 1:
            raise UsageError("a stream keeps at least one event", hint="leave capacity out")
        self._subscription = Subscription(connection, wanted, capacity=capacity)
        try:
            self._gone = self._told_last = domain is not None and not domain.exists()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more; whoever waits for the next event is told that there is none."""
        self._subscription.close()

    def __next__(self) -> Event:
        """Wait for the next event.

        Raises:
            StopIteration: The time is over, or it was closed.
            NotFoundError: The machine is gone; only of a stream that is one machine's.
            HostUnavailableError: The host went away, and did not come back within a minute.
        """
        event = self._take(self._deadline)
        if event is None:
            raise StopIteration
        return event

    def get(self, timeout: float | None = None) -> Event | None:
        """Wait so many seconds for an event; None if there is none. Raises what ``next`` does."""
        deadline = self._deadline if timeout is None else time.monotonic() + timeout
        return self._take(deadline)

    def _take(self, deadline: float | None) -> Event | None:
        while True:
            gone = self._gone
            event = self._subscription.get(self._last_call() if gone else deadline)
            if event is None:
                if gone and self._domain is not None:
                    raise NotFoundError(
                        f"there is no machine '{self._domain.name}' (any more)",
                        hint="`vmctl list` shows what there is",
                    )
                return None
            if self._domain is not None and event.kind in _MAY_BE_GONE:
                self._gone = not self._domain.exists()
                self._told_last = self._told_last or event.kind is EventKind.UNDEFINED
            if not self._kinds or event.kind in self._kinds or event.kind in ALWAYS_TOLD:
                return event

    def _last_call(self) -> float:
        """Return until when to listen to a machine that is gone, for what was said of it before."""
        return time.monotonic() + (0.0 if self._told_last else _LAST_CALL_SECONDS)


def _kinds(kinds: Iterable[EventKind | str]) -> frozenset[EventKind]:
    given = frozenset(map(str, kinds))
    for kind in sorted(given.difference(EventKind)):
        near = difflib.get_close_matches(kind, list(EventKind), n=2)
        every = f"one of: {', '.join(EventKind)}"
        raise UsageError(
            f"there is no kind of event {kind[:80]!r}",
            hint=f"did you mean {' or '.join(near)}?" if near else every,
        )
    return frozenset(map(EventKind, given))


class EventListener:
    """Calls a function for each event, in a thread of its own, until it is closed.

    An exception that the function raises ends it; `error` keeps it, and it is shown as that of any
    other thread. So does a host that went away for good.
    """

    def __init__(
        self,
        stream: EventStream,
        callback: Callable[[Event], object],
        forget: Callable[[EventListener], object],
    ) -> None:
        self.error: BaseException | None = None
        self._stream = stream
        self._callback = callback
        self._forget = forget
        self._thread = threading.Thread(target=self._run, name="vmctl-listener", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it. When this returns, the function runs no more, unless it is it that calls."""
        self._stream.close()
        self._forget(self)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            for event in self._stream:
                self._callback(event)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._stream.close()
            self._forget(self)
