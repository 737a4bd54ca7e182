"""Progress on stderr: drawn on a terminal, told line by line with --verbose, else nothing."""

from __future__ import annotations

import os
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmctl.cli.errors import announcers
from vmctl.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

__all__ = ["Lines", "Rows", "aside", "drawer"]

_FRAMES_A_SECOND = 10
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_SPINNER = "|/-\\"
_drawn: list[Live] = []


@contextmanager
def drawer(*, verbose: bool, quiet: bool, passing: bool) -> Iterator[ProgressCallback | None]:
    """Give the callback that suits where stderr goes; None where nothing is to be seen."""
    on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if quiet or not (on_terminal or verbose):
        yield None
        return
    if not on_terminal:
        yield Lines()
        return
    from rich.console import Console  # noqa: PLC0415 - only when something is drawn
    from rich.live import Live  # noqa: PLC0415

    console = Console(file=sys.stderr, highlight=False)
    rows = Rows(console)
    with (
        _without_echoed_signals(),
        _announced_by(rows),
        Live(
            rows,
            console=console,
            refresh_per_second=_FRAMES_A_SECOND,
            transient=passing,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live,
    ):
        _drawn.append(live)
        try:
            yield rows
        finally:
            _drawn.remove(live)
            live.refresh()


@contextmanager
def aside() -> Iterator[None]:
    """Take what is drawn off the terminal while something else is shown or asked there.

    Else the next frame would be drawn over it.
    """
    stopped = [*_drawn]
    for live in stopped:
        live.stop()
    yield
    for live in stopped:
        live.start()


@contextmanager
def _announced_by(rows: Rows) -> Iterator[None]:
    announcers.append(rows.announce)
    try:
        yield
    finally:
        announcers.remove(rows.announce)


@contextmanager
def _without_echoed_signals() -> Iterator[None]:
    """Keep the terminal from writing ^C into what is drawn."""
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, AttributeError, termios.error):  # a closed stdin is None
        yield
        return
    changed = [*before]
    changed[3] &= ~termios.ECHOCTL
    _set(terminal, changed)
    try:
        yield
    finally:
        _set(terminal, before)


def _set(terminal: int, attributes: list[Any]) -> None:
    # A process in the background that touches the terminal is stopped.
    with suppress(OSError, termios.error):
        if os.tcgetpgrp(terminal) == os.getpgrp():
            termios.tcsetattr(terminal, termios.TCSANOW, attributes)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60}:{int(value) % 60:02d} min"


def _describe(detail: str, fraction: float | None) -> str:
    clean = " ".join("".join(c if c.isprintable() else " " for c in detail).split())
    return clean if fraction is None else f"{clean} {fraction:.0%}".strip()


class Lines:
    """A line for each thing that is said, for logs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], str] = {}

    def __call__(self, report: Progress) -> None:
        """Print a report, but not every percent of an upload."""
        key = (report.machine, report.phase)
        text = _describe(report.detail, None)
        with self._lock:
            if report.state == "update" and self._said.get(key) == text:
                return
            self._said[key] = text
            line = f"{report.machine}: {report.phase}"
            if report.state in {"end", "failed"}:
                word = "done" if report.state == "end" else "failed"
                line += f": {word} after {_seconds(report.elapsed)}"
                text = text if report.state == "failed" else ""
            line += f": {text}" if text else ""
            # In one piece: a signal must not part a line from its end.
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


@dataclass
class _Row:
    machine: str
    phase: str
    began: float
    detail: str = ""
    fraction: float | None = None
    state: str = "begin"
    elapsed: float = 0.0


class Rows:
    """A line for each phase, redrawn while it lasts: a sign, its name, its time, what is seen."""

    def __init__(self, console: Console) -> None:
        self._lock = threading.Lock()
        self._rows: list[_Row] = []
        self._announced = ""
        unicode = (console.encoding or "").lower().startswith("utf")
        self._spinner = _SPINNER if unicode else _ASCII_SPINNER
        self._signs = {
            "end": ("✓" if unicode else "+", "green"),
            "failed": ("✗" if unicode else "x", "red"),
        }

    def __call__(self, report: Progress) -> None:
        """Take a report."""
        with self._lock:
            row = self._row(report)
            row.state, row.elapsed = report.state, report.elapsed
            row.fraction = report.fraction
            if report.detail or report.state == "update":
                row.detail = report.detail

    def announce(self, text: str) -> None:
        """Show a text below the phases."""
        self._announced = text

    def _row(self, report: Progress) -> _Row:
        for row in reversed(self._rows):
            open_one = row.state in {"begin", "update"}
            if open_one and (row.machine, row.phase) == (report.machine, report.phase):
                return row
        row = _Row(report.machine, report.phase, time.monotonic() - report.elapsed)
        self._rows.append(row)
        return row

    def __rich__(self) -> Any:
        """Draw all of it."""
        from rich.console import Group  # noqa: PLC0415 - only when something is drawn
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, justify="right")
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        with self._lock:
            several = len({row.machine for row in self._rows}) > 1
            for row in self._rows:
                sign, color = self._signs.get(row.state, ("", "cyan"))
                now = time.monotonic() - row.began
                if not sign:
                    sign = self._spinner[int(now * _FRAMES_A_SECOND) % len(self._spinner)]
                over = row.state in {"end", "failed"}
                name = f"{row.machine}: {row.phase}" if several else row.phase
                grid.add_row(
                    Text(sign, style=color),
                    Text(name),
                    Text(_seconds(row.elapsed if over else now), style="dim"),
                    Text(_describe(row.detail, None if over else row.fraction), style="dim"),
                )
        return Group(grid, Text(self._announced)) if self._announced else grid
