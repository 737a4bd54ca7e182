"""Copy files and trees: cp."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, BinaryIO, Literal

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.output import human_size
from vmctl.cli.streams import given_stdin

if TYPE_CHECKING:
    from vmctl.guest.copying import CopiedFiles
    from vmctl.progress import ProgressCallback
    from vmctl.vm import VM

__all__ = ["cp"]

# As scp has it: a colon before any slash.
_REMOTE = re.compile(r"([^/:]+):(.*)", re.DOTALL)


@command("cp")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("--recursive", "-r", is_flag=True, help="Copy a folder with all that is in it.")
@click.option(
    "--via",
    type=click.Choice(["ssh", "agent"]),
    help="The only way to try. The agent takes single files, by absolute paths.",
)
@pass_app
def cp(
    app: App, source: str, target: str, *, recursive: bool, via: Literal["ssh", "agent"] | None
) -> None:
    """Copy a file or a folder into a guest, or out of one.

    One of SOURCE and TARGET is NAME:PATH, where what is relative lies below the home folder. The
    other is a path here (./a:b for one with a colon), or - for stdin or stdout. Modes and times
    are kept. Where SSH can't be had, the guest's agent copies a file.
    """
    there = [_REMOTE.fullmatch(word) for word in (source, target)]
    match there:
        case [None, re.Match() as found]:
            given = _stdin() if source == "-" else source

            def copy(machine: VM, progress: ProgressCallback | None) -> CopiedFiles:
                return machine.copy_to(
                    given, found[2], recursive=recursive, via=via, progress=progress
                )

        case [re.Match() as found, None]:
            place = sys.stdout.buffer if target == "-" else target

            def copy(machine: VM, progress: ProgressCallback | None) -> CopiedFiles:
                return machine.copy_from(
                    found[2], place, recursive=recursive, via=via, progress=progress
                )

        case _:
            raise click.UsageError(
                "one of SOURCE and TARGET must be NAME:PATH, and only one",
                click.get_current_context(),
            )
    with app.machine(found[1]) as machine, app.progress(passing=True) as progress:
        done = copy(machine, progress)
    if target == "-":
        # stdout has the file.
        return
    text = f"copied {done.files} file{'' if done.files == 1 else 's'}, {human_size(done.bytes)}"
    app.show(done, lambda: app.note(f"{machine.name}: {text}, by {_WAYS[done.via]}"))


_WAYS = {"ssh": "SSH", "agent": "its agent"}


def _stdin() -> BinaryIO:
    stdin = given_stdin()
    if stdin is None:
        raise click.UsageError("there is no stdin to read", click.get_current_context())
    return stdin
