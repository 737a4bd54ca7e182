"""What a process holds: threads, file descriptors, libvirt's connections and callbacks."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import libvirt

from .libvirt_calls import counted

_PAIRS = (
    ("virConnectDomainEventRegisterAny", "virConnectDomainEventDeregisterAny"),
    ("virConnectRegisterCloseCallback", "virConnectUnregisterCloseCallback"),
)


@dataclass(frozen=True)
class _Held:
    threads: tuple[str, ...]
    descriptors: int
    connections: int


def _held() -> _Held:
    gc.collect()
    return _Held(
        threads=tuple(sorted(thread.name for thread in threading.enumerate())),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        connections=sum(isinstance(thing, libvirt.virConnect) for thing in gc.get_objects()),
    )


class NothingMore(AbstractContextManager["NothingMore"]):
    """Checks that the block leaves the process with what it had, and undoes what it registers."""

    def __enter__(self) -> Self:
        self._before = _held()
        self._counting = counted()
        self.calls: Counter[str] = self._counting.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._counting.__exit__(kind, error, traceback)
        if kind is not None:
            return
        held = _held()
        deadline = time.monotonic() + 10
        # Where another connection is open, libvirt's thread gives sockets back a moment later; and
        # there may be less: what broke meanwhile and was not asked for again.
        while not self._is_no_more(held) and time.monotonic() < deadline:
            held = _held()
        assert self._is_no_more(held), (self._before, held)
        for begin, end in _PAIRS:
            assert self.calls[begin] == self.calls[end], (begin, self.calls)

    def _is_no_more(self, held: _Held) -> bool:
        return (
            not Counter(held.threads) - Counter(self._before.threads)
            and held.descriptors <= self._before.descriptors
            and held.connections <= self._before.connections
        )
