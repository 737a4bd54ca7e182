"""Making a machine's disks stand alone."""

from __future__ import annotations

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command

__all__ = ["flatten"]


@command("flatten")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@click.option("--disk", metavar="TARGET", help="This disk only, vda say.")
@pass_app
def flatten(app: App, name: str, disk: str | None) -> None:
    """Copy into the disks of the machine NAME what lies underneath, so that they stand alone.

    It may run meanwhile, or be off. Interrupted, its disks stay as they are, and it goes on where
    it stopped when it is called again.
    """
    with app.machine(name) as machine:
        with app.progress(passing=True) as progress:
            done = machine.flatten(disk, progress=progress)
        data = {"name": machine.name, "uuid": machine.uuid, "flattened": list(done)}
    app.show(data, lambda: None)
    if app.wants_table:
        app.note(f"{name}: {', '.join(done)} flattened" if done else f"{name}: nothing to flatten")
