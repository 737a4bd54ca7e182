"""Watching machines: stats, top, events."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.errors import Interrupted
from vmctl.cli.lazy import command
from vmctl.cli.output import human_size, print_table
from vmctl.errors import WaitTimeoutError

if TYPE_CHECKING:
    from vmctl.events import EventStream
    from vmctl.host import Host
    from vmctl.stats import MachineStats

__all__ = ["events", "stats", "top"]

_names = click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=machine_names)
_CLEAR = "\x1b[H\x1b[2J"
_HEADINGS = ("NAME", "STATE", "CPU%", "MEMORY", "USED", "READ/S", "WRITE/S", "IN/S", "OUT/S")


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _read(one: MachineStats) -> float | None:
    return _total([disk.read_rate for disk in one.disks])


def _written(one: MachineStats) -> float | None:
    return _total([disk.write_rate for disk in one.disks])


def _received(one: MachineStats) -> float | None:
    return _total([nic.receive_rate for nic in one.nics])


def _sent(one: MachineStats) -> float | None:
    return _total([nic.send_rate for nic in one.nics])


# By what `top` sorts: the highest first.
_SORTS: dict[str, Callable[[MachineStats], float | None]] = {
    "cpu": lambda one: one.cpu.percent,
    "memory": lambda one: one.memory.resident,
    "read": _read,
    "write": _written,
    "in": _received,
    "out": _sent,
}


def _size(value: float | None) -> str:
    return "" if value is None else human_size(int(value))


def _row(one: MachineStats) -> tuple[str, ...]:
    return (
        one.name,
        one.state,
        "" if one.cpu.percent is None else f"{one.cpu.percent:.1f}",
        _size(one.memory.current),
        _size(one.memory.used),
        *(_size(figure(one)) for figure in (_read, _written, _received, _sent)),
    )


def _print(found: Sequence[MachineStats]) -> None:
    print_table(_HEADINGS, [_row(one) for one in found])


_interval = click.FloatRange(min=0.1, max=3600)


@command("stats")
@_names
@click.option(
    "--interval",
    type=_interval,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The time over which rates are measured.",
)
@pass_app
def stats(app: App, names: tuple[str, ...], interval: float) -> None:
    """Measure what machines use: processors, memory, disks, network; all, without a NAME.

    It takes two measurements, each one libvirt call for all machines.
    """
    with app.connect() as host:
        found = host.stats(*names, interval=interval)
    app.show(found, lambda: _print(found))


@command("top")
@_names
@click.option(
    "--interval",
    type=_interval,
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two measurements.",
)
@click.option("--iterations", type=click.IntRange(min=1), metavar="N", help="End after N tables.")
@click.option("--once", is_flag=True, help="Show one table and end.")
@click.option(
    "--sort",
    type=click.Choice([*_SORTS, "name"]),
    default="cpu",
    show_default=True,
    help="What comes first.",
)
@pass_app
def top(
    app: App,
    *,
    names: tuple[str, ...],
    interval: float,
    iterations: int | None,
    once: bool,
    sort: str,
) -> None:
    """Show what the running machines use, again and again, until Ctrl-C.

    On a terminal the table is drawn anew; in a pipe one follows the other. With --format json each
    table is one line.
    """
    with app.connect() as host, _until_ctrl_c():
        _repeat(app, host, names, every=interval, count=1 if once else iterations, sort=sort)


def _repeat(
    app: App, host: Host, names: Sequence[str], *, every: float, count: int | None, sort: str
) -> None:
    from vmctl.cli.output import print_line  # noqa: PLC0415 - with what it needs

    last = host.stats(*names)
    while count is None or count > 0:
        threading.Event().wait(every)
        last = host.stats(*names, since=last)
        shown = _sorted([one for one in last if names or one.state != "shut off"], sort)
        if not app.wants_table:
            print_line(shown, app.settings.format)
        else:
            if sys.stdout.isatty():
                click.echo(_CLEAR, nl=False)
            _print(shown)
        sys.stdout.flush()
        count = None if count is None else count - 1


def _sorted(found: Sequence[MachineStats], sort: str) -> Sequence[MachineStats]:
    if sort == "name":
        return found

    def key(one: MachineStats) -> Any:
        value = _SORTS[sort](one)
        return (value is None, -(value or 0.0), one.name)

    return sorted(found, key=key)


@contextmanager
def _until_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the block in good order: there is no other end to what has none."""
    try:
        yield
    except KeyboardInterrupt as error:
        if isinstance(error, Interrupted) and error.number != signal.SIGINT:
            raise


@command("events")
@_names
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only this kind; repeatable.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End after that time.",
)
@pass_app
def events(
    app: App,
    names: tuple[str, ...],
    kinds: tuple[str, ...],
    count: int | None,
    timeout: float | None,
) -> None:
    """Show what happens to machines, as it happens, until Ctrl-C; to all, without a NAME.

    With --format json each event is one line. With one NAME it ends when that machine is gone, and
    the exit code is 3. It is 6 when --timeout is over before --count events.
    """
    with app.connect() as host, _until_ctrl_c():
        machines = [app.find(host, name) for name in dict.fromkeys(names)]
        if len(machines) == 1:
            stream = machines[0].events(kinds=kinds, timeout=timeout)
        else:
            uuids = [machine.uuid for machine in machines]
            stream = host.events(*uuids, kinds=kinds, timeout=timeout)
        if app.verbose:
            app.note(f"listening at {host.uri}")
        with stream:
            seen = _show_events(app, stream, count)
    if count is not None and seen < count:
        raise WaitTimeoutError(
            f"there were {seen} events of {count} within {timeout:g} s",
            phase="events",
            hint="give it more time with --timeout",
        )


def _show_events(app: App, stream: EventStream, count: int | None) -> int:
    from vmctl.cli.output import one_line, print_line  # noqa: PLC0415 - with what it needs

    seen = 0
    for event in stream:
        if app.wants_table:
            parts = (event.time, event.name, event.kind.value, event.detail)
            click.echo("  ".join(one_line(part) for part in parts if part))
        else:
            print_line(event, app.settings.format)
        sys.stdout.flush()
        seen += 1
        if seen == count:
            break
    return seen
