"""What a long call says of itself while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Phase",
    "Progress",
    "ProgressCallback",
    "Reporter",
    "being_undone",
    "is_being_ended",
    "is_being_undone",
    "when_work_goes_on",
]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One report.

    Attributes:
        machine: The machine it is about.
        phase: What is being done or waited for: ``image``, ``define``, ``disks``, ``start``,
            ``running``, ``address``, ``ssh``, ``cloud-init``, ``undo``, ``shutdown``, ``snapshot``,
            ``revert``, ``delete``, ``clone``, ``upload``,
            ``download``, ``wipe``, ``export``, ``flatten``, ``copy``, ``save``, ``dump``,
            ``backup``, ``write`` (of a stream), ``verify``, ``restore``.
        state: ``begin`` and ``end`` once per phase, ``update`` any number of times between them;
            ``failed`` in the place of ``end`` when it did not succeed.
        detail: What is seen right now, for people.
        fraction: How much of the phase is done, from 0 to 1, where that is known.
        elapsed: Seconds since the phase began.
    """

    machine: str
    phase: str
    state: Literal["begin", "update", "end", "failed"]
    detail: str = ""
    fraction: float | None = None
    elapsed: float = 0.0


ProgressCallback = Callable[[Progress], None]


class Phase:
    """A phase under way."""

    def __init__(self, machine: str, name: str, callback: ProgressCallback | None) -> None:
        self._machine = machine
        self._name = name
        self._callback = callback
        self._began = time.monotonic()
        self.detail = ""
        self._percent: int | None = None

    def tell(
        self,
        state: Literal["begin", "update", "end", "failed"],
        detail: str = "",
        fraction: float | None = None,
    ) -> None:
        """Report."""
        if state in {"begin", "update"}:
            _go_on_with_work()
        if self._callback is not None:
            self._callback(
                Progress(
                    machine=self._machine,
                    phase=self._name,
                    state=state,
                    detail=detail,
                    fraction=fraction,
                    elapsed=time.monotonic() - self._began,
                )
            )

    def update(self, detail: str, fraction: float | None = None) -> None:
        """Say what is seen now; the same words, and the same per cent, are said once."""
        percent = None if fraction is None else int(fraction * 100)
        if (detail, percent) == (self.detail, self._percent):
            return
        self.detail, self._percent = detail, percent
        self.tell("update", detail, fraction)


def _tolerant(callback: ProgressCallback | None) -> ProgressCallback | None:
    if callback is None:
        return None

    def tell(report: Progress) -> None:
        with suppress(Exception):
            callback(report)

    return tell


_undoing = 0
_waiting: list[Callable[[], None]] = []


@contextmanager
def being_undone() -> Iterator[None]:
    """Say, while the block runs, that something is being undone and better not interrupted."""
    global _undoing  # noqa: PLW0603 - signals are the process's own, and so is what they interrupt
    _undoing += 1
    try:
        yield
    finally:
        _undoing -= 1


def is_being_undone() -> bool:
    """Return whether something is being undone right now, for who handles signals."""
    return _undoing > 0


def is_being_ended() -> bool:
    """Return whether what better isn't interrupted runs though nothing failed.

    For who handles signals, in the main thread: a step that is done is being written down, and
    the work goes on after it.
    """
    return is_being_undone() and sys.exc_info()[0] is None


def when_work_goes_on(call: Callable[[], None]) -> None:
    """Have something called once, as soon as work goes on that may be interrupted.

    If none does, what was asked for is done, and nothing is called.
    """
    _waiting.append(call)


def _go_on_with_work() -> None:
    if _waiting and not is_being_undone() and sys.exc_info()[0] is None:
        calls = _waiting[:]
        _waiting.clear()
        for call in calls[:1]:
            call()


class Reporter:
    """Reports the phases of one machine to one callback."""

    def __init__(self, machine: str, callback: ProgressCallback | None) -> None:
        self._machine = machine
        self._callback = callback

    @contextmanager
    def phase(self, name: str, *, must_run: bool = False) -> Iterator[Phase]:
        """Report the beginning and the end of what the block does.

        Args:
            name: The phase.
            must_run: Whether the block runs even if the callback fails.
        """
        callback = self._callback
        phase = Phase(self._machine, name, _tolerant(callback) if must_run else callback)
        phase.tell("begin")
        try:
            yield phase
        except BaseException:
            phase.tell("failed", phase.detail)
            raise
        phase.tell("end", phase.detail)
