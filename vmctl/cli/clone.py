"""Making another machine of one that there is."""

from __future__ import annotations

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.output import print_table

__all__ = ["clone"]


@command("clone")
@click.argument("machine", metavar="MACHINE", shell_complete=machine_names)
@click.argument("name", metavar="NAME")
@click.option("--linked", is_flag=True, help="Lie on the disks of a snapshot; copy nothing.")
@click.option("--from-snapshot", metavar="SNAPSHOT", help="Make it of this snapshot of MACHINE.")
@click.option(
    "--set",
    "values",
    metavar="PATH=VALUE",
    multiple=True,
    help="What it has in the place of what only MACHINE can have: nics[0].address=192.0.2.11/24.",
)
@click.option("--start", is_flag=True, help="Start it, and wait until its guest is ready.")
@pass_app
def clone(
    app: App,
    *,
    machine: str,
    name: str,
    linked: bool,
    from_snapshot: str | None,
    values: tuple[str, ...],
    start: bool,
) -> None:
    """Make a machine NAME with the disks of MACHINE, which may run, and an identity of its own.

    It has its own UUID, MAC addresses, UEFI variables and TPM, and by cloud-init its own host name,
    machine-id and SSH host key.
    """
    from vmctl.intent.assignments import parse  # noqa: PLC0415 - only when it is called

    wanted = dict(parse(text) for text in values)
    with app.machine(machine) as source:
        with app.progress(passing=True) as progress:
            made = source.clone(
                name,
                linked=linked,
                from_snapshot=from_snapshot,
                values=wanted,
                start=start,
                tell=app.warn,
                progress=progress,
            )
        info = made.info()
    app.show(
        info,
        lambda: print_table(("NAME", "STATE", "PHASE"), [(info.name, info.state, info.phase)]),
    )
