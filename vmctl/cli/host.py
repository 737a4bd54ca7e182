"""Private hosts: start, list, stop."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import print_table
from vmctl.errors import NotFoundError

if TYPE_CHECKING:
    from vmctl.hosts import HostSummary

__all__ = ["host", "list_all", "start", "stop"]

host = LazyGroup(
    "host",
    sections={
        "Commands": {
            "start": f"{__name__}:start",
            "list": f"{__name__}:list_all",
            "stop": f"{__name__}:stop",
        }
    },
    help="Start, list and stop private hosts: a libvirt of one's own, apart from the system's.",
)


def _print(found: Sequence[HostSummary]) -> None:
    print_table(
        ("NAME", "STATE", "NETWORK", "KIND", "URI"),
        [
            (
                entry.name,
                "running" if entry.running else "not running",
                entry.network,
                entry.kind,
                entry.uri,
            )
            for entry in found
        ],
    )


def _names(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from vmctl.hosts import list_hosts  # noqa: PLC0415 - not before it is needed

    return [entry.name for entry in list_hosts() if entry.name.startswith(incomplete)]


@command("start")
@click.argument("name", metavar="NAME")
@click.option(
    "--network",
    type=click.Choice(("own", "host")),
    help="Whether its guests have a network of their own (needs root), or user-mode networking. "
    "By default the first for root, and the second for others.",
)
@pass_app
def start(app: App, name: str, network: Literal["own", "host"] | None) -> None:
    """Start the private host NAME; one that runs already is left so."""
    from vmctl.hosts import start_host  # noqa: PLC0415 - not before it is needed
    from vmctl.progress import Reporter  # noqa: PLC0415

    with app.progress(passing=True) as progress, Reporter(name, progress).phase("start"):
        started = start_host(name, network=network)
    for warning in started.warnings:
        app.warn(warning)
    app.show(started, lambda: _print([started]))
    if app.wants_table:
        app.note(f"use it with: vmctl --uri {started.uri} ..., or export VMCTL_URI={started.uri}")


@command("list")
@pass_app
def list_all(app: App) -> None:
    """List the private hosts of this user."""
    from vmctl.hosts import list_hosts  # noqa: PLC0415 - not before it is needed

    found = list_hosts()
    app.show(found, lambda: _print(found))


@command("stop")
@click.argument("name", metavar="NAME", shell_complete=_names)
@click.option("--force", is_flag=True, help="Also when it has guests; they go with it.")
@pass_app
def stop(app: App, name: str, force: bool) -> None:
    """End the private host NAME, and remove everything that it kept."""
    from vmctl.hosts import list_hosts, stop_host  # noqa: PLC0415 - not before it is needed
    from vmctl.progress import Reporter  # noqa: PLC0415

    name = name.removeprefix("private:")
    try:
        with app.progress(passing=True) as progress, Reporter(name, progress).phase("stop"):
            stop_host(name, force=force)
    except NotFoundError as error:
        near = difflib.get_close_matches(name, [entry.name for entry in list_hosts()], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`vmctl host list` shows them"
        raise NotFoundError(error.brief, details=error.details, hint=hint) from error
    app.show({"name": name, "stopped": True}, lambda: app.note(f"{name}: stopped and removed"))
