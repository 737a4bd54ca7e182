"""The audit: what isolates a machine, line by line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command

if TYPE_CHECKING:
    from vmctl.audit import Audit

__all__ = ["audit"]

_COLORS = {"holds": "green", "fails": "red", "unknown": "yellow"}


@command("audit")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@click.option("--strict", is_flag=True, help="End with 1 when something does not hold.")
@pass_app
def audit(app: App, name: str, strict: bool) -> None:
    """Show what isolates the machine NAME, what doesn't, and who would have to provide it.

    It may be any machine, whoever made it. Of one that is off, its next start is judged.
    """
    with app.machine(name) as machine:
        found = machine.audit()
    app.show(found, lambda: _print(found))
    if strict and found.failed:
        raise click.exceptions.Exit(1)


def _print(found: Audit) -> None:
    color = False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
    wide = max(len(line.check) for line in found.lines)
    for line in found.lines:
        word = click.style(f"{line.verdict:<7}", fg=_COLORS[line.verdict], bold=True)
        click.echo(f"{word}  {line.check:<{wide}}  {line.found}", color=color)
        if line.needs:
            click.echo(f"{'':7}  {'':{wide}}  the {line.owes} would need {line.needs}", color=color)
