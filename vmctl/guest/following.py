"""A guest's console log, line by line, as it is being written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from vmctl.errors import NotFoundError
from vmctl.guest.console import clean, log_volume
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.growing import GrowingLog
from vmctl.hypervisor.metadata import Record

__all__ = ["Lines", "follow"]

# libvirt has no event for what a guest writes, so a log is looked at again: a running machine's at
# once, that of one that is off only in case its start was not heard of.
_RUNNING_SECONDS = 0.5
_OFF_SECONDS = 10.0
# A longer line is cut.
_LONGEST = 64 * 1024


class Lines:
    """Cuts what comes into lines, without control sequences."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the lines that are whole now, without their ends."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            yield clean(line)
        while len(self._rest) > _LONGEST:
            line, self._rest = self._rest[:_LONGEST], self._rest[_LONGEST:]
            yield clean(line)

    def end(self) -> Iterator[str]:
        """Yield the last line, if it has no end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield clean(rest)


def follow(domain: Domain, record: Record, *, lines: int | None = None) -> Iterator[str]:
    """Yield what the guest wrote to its console, and what it writes from now on.

    It goes on across restarts of the machine and of libvirtd, and ends with the machine.

    Args:
        domain: The machine.
        record: Its record.
        lines: How many of the lines that are there already; None for all of them.

    Raises:
        NotFoundError: The machine keeps no console log.
        HostUnavailableError: libvirtd does not come back.
    """
    volume = log_volume(record)
    log = GrowingLog(domain.connection, volume.pool, volume.name)
    cutter = Lines()
    try:
        with domain.connection.events.listening(domain.uuid) as signal:
            yield from _present(log, cutter, lines)
            was_on = True
            while True:
                on, piece = _next(domain, log, signal, was_on=was_on)
                if piece:
                    yield from cutter.feed(piece)
                    continue
                was_on = on
                if not on:
                    # Nothing more is written to that line.
                    yield from cutter.end()
    except NotFoundError:
        yield from cutter.end()


def _present(log: GrowingLog, cutter: Lines, count: int | None) -> Iterator[str]:
    last: deque[str] = deque(maxlen=count)
    while piece := outlasting(lambda: next(log.read(), b"")):
        if count is None:
            yield from cutter.feed(piece)
        else:
            last.extend(cutter.feed(piece))
    yield from last


def _next(domain: Domain, log: GrowingLog, signal: Signal, *, was_on: bool) -> tuple[bool, bytes]:
    """Wait until something was written, or the machine went on or off; returns (is on, written)."""

    def look() -> tuple[bool, bytes] | None:
        # In this order: once it is off, and all was read, nothing more comes.
        on = outlasting(domain.is_active)
        piece = outlasting(lambda: next(log.read(), b""))
        return (on, piece) if piece or on is not was_on else None

    while True:
        seconds = _RUNNING_SECONDS if was_on else _OFF_SECONDS
        found = signal.wait_for(look, deadline=time.monotonic() + 60 * seconds, recheck=seconds)
        if found is not None:
            return found
