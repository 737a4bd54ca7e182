"""CD-ROM drives of a machine: list, insert, eject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.devices.media import CdromDrive

__all__ = ["cdrom", "eject", "insert", "list_drives"]

cdrom = LazyGroup(
    "cdrom",
    sections={
        "Commands": {
            "list": f"{__name__}:list_drives",
            "insert": f"{__name__}:insert",
            "eject": f"{__name__}:eject",
        }
    },
    help="List the CD-ROM drives of a machine, running or not, and change what is in them.",
)

_name = click.argument("name", metavar="NAME", shell_complete=machine_names)
_target = click.argument("target", metavar="TARGET")
_force = click.option("--force", is_flag=True, help="Open a tray that the guest has locked.")
_next_start = click.option(
    "--next-start", is_flag=True, help="Leave a running machine as it is until it is started again."
)


def _print(found: Sequence[CdromDrive]) -> None:
    print_table(
        ("TARGET", "BUS", "NOW", "LATER"),
        [(entry.target, entry.bus, entry.now, entry.source) for entry in found],
    )


@command("list")
@_name
@pass_app
def list_drives(app: App, name: str) -> None:
    """List the CD-ROM drives of NAME, and what is in them."""
    with app.machine(name) as machine:
        found = machine.cdroms.list()
    app.show(found, lambda: _print(found))


@command("insert")
@_name
@_target
@click.argument("file", metavar="[FILE]", required=False, type=click.Path())
@click.option("--volume", metavar="VOLUME", help="An image that the host has, instead of FILE.")
@click.option("--replace", is_flag=True, help="Change a medium that is in the drive for this one.")
@_force
@_next_start
@pass_app
def insert(app: App, /, name: str, target: str, file: str | None, **options: Any) -> None:
    """Put FILE, an ISO image of yours, into the drive TARGET of NAME."""
    with app.machine(name) as machine, app.progress(passing=True) as progress:
        drive = machine.cdroms.insert(target, file, progress=progress, **options)
    app.show(drive, lambda: _print([drive]))


@command("eject")
@_name
@_target
@_force
@_next_start
@pass_app
def eject(app: App, /, name: str, target: str, **options: Any) -> None:
    """Take the medium out of the drive TARGET of NAME; an empty one is left so."""
    with app.machine(name) as machine:
        drive = machine.cdroms.eject(target, **options)
    app.show(drive, lambda: app.note(f"{name}: {target} is empty"))
