"""What is done to a machine from outside, beside its power: nmi, dump, autostart, rename."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.output import human_size
from vmctl.cli.power import do, names

if TYPE_CHECKING:
    from vmctl.vm import VM

__all__ = ["autostart", "dump", "nmi", "rename"]

_FORMATS = ("elf", "kdump-zlib", "kdump-lzo", "kdump-snappy", "win-dmp")
_name = click.argument("name", metavar="NAME", shell_complete=machine_names)


@command("nmi")
@names
@pass_app
def nmi(app: App, names: tuple[str, ...]) -> None:
    """Send the guests of machines a non-maskable interrupt."""
    do(app, names, lambda machine: machine.nmi(), said="an NMI was sent")


@command("dump")
@_name
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--as", "form", type=click.Choice(_FORMATS), default="elf", show_default=True, help="What to."
)
@click.option("--via", metavar="POOL", help="The pool that it lies in on its way here.")
@click.option("--replace", is_flag=True, help="Replace a file that is there.")
@pass_app
def dump(app: App, *, name: str, file: Path, form: str, via: str | None, replace: bool) -> None:
    """Write the memory of the guest of NAME into FILE, for a debugger.

    The guest stands still meanwhile. All of its secrets are in the file.
    """
    with app.machine(name) as machine:
        with app.progress() as progress:
            size = machine.dump(file, format=form, pool=via, replace=replace, progress=progress)
        made: dict[str, Any] = {"name": machine.name, "file": file, "format": form, "size": size}
    app.show(made, lambda: app.note(f"{made['name']}: {file} ({human_size(size)})"))


@command("autostart")
@names
@click.option("--off", is_flag=True, help="Don't start them with the host any more.")
@pass_app
def autostart(app: App, names: tuple[str, ...], off: bool) -> None:
    """Start machines together with their host."""

    def change(machine: VM) -> dict[str, Any]:
        machine.set_autostart(not off)
        return {"autostart": machine.autostart}

    do(app, names, change)


@command("rename")
@_name
@click.argument("new", metavar="NEW")
@pass_app
def rename(app: App, name: str, new: str) -> None:
    """Give the machine NAME, which is off, the name NEW.

    Its guest's host name is not changed.
    """
    with app.machine(name) as machine:
        machine.rename(new)
        made = {"name": machine.name, "uuid": machine.uuid, "state": machine.state}
    app.show(made, lambda: app.note(f"{name} is {new} now; its guest's host name is as it was"))
