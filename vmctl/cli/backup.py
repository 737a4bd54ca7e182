"""Backups: create, list, verify, restore, prune."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.keeping import keep_options, rules_of
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import human_size, print_table
from vmctl.cli.progress import aside
from vmctl.cli.streams import asks_on_terminal, given_stdin
from vmctl.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.backups import Backup, Pruned, Verified
    from vmctl.transfer.importing import Incoming

__all__ = ["backup", "create", "list_backups", "prune", "restore", "verify"]

backup = LazyGroup(
    "backup",
    sections={
        "Commands": {
            "create": f"{__name__}:create",
            "list": f"{__name__}:list_backups",
            "verify": f"{__name__}:verify",
            "restore": f"{__name__}:restore",
            "prune": f"{__name__}:prune",
        }
    },
    help="Make backups of machines, look at them, and make machines of them.",
)

_folder = click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
_folder_or_stdin = click.argument(
    "folder", metavar="FOLDER", type=click.Path(path_type=Path, allow_dash=True)
)
_machine = click.argument("machine", metavar="[MACHINE]", required=False)
_STREAM = Path("-")


@command("create")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@_folder_or_stdin
@click.option("--full", is_flag=True, help="All of it, where what was changed would do.")
@click.option("--quiesce", is_flag=True, help="Freeze its file systems for the moment, or fail.")
@click.option("--no-quiesce", is_flag=True, help="Don't, though its agent could.")
@click.option("--via", metavar="POOL", help="The pool that it lies in on its way here.")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long QEMU may write it.")
@pass_app
def create(
    app: App,
    *,
    name: str,
    folder: Path,
    full: bool,
    quiesce: bool,
    no_quiesce: bool,
    via: str | None,
    timeout: float | None,
) -> None:
    """Back NAME up into FOLDER, while it runs or while it is off.

    After the first one, only what was changed since. - writes a full one to stdout, as a bundle.
    """
    if quiesce and no_quiesce:
        raise UsageError(
            "--quiesce and --no-quiesce exclude each other",
            hint="without both, it is done if the agent can",
        )
    target: Path | BinaryIO = folder
    if folder == _STREAM:
        if sys.stdout is None or sys.stdout.isatty():
            raise UsageError("a terminal can't show a backup", hint="write it to a file or a pipe")
        target = sys.stdout.buffer
    with app.machine(name) as machine, app.progress(passing=True) as progress:
        made = machine.backup(
            target,
            full=full,
            quiesce=quiesce or (False if no_quiesce else None),
            pool=via,
            timeout=timeout,
            progress=progress,
        )
    for remark in made.remarks:
        app.warn(remark)
    if folder == _STREAM:
        return
    why = f": {made.why}" if made.why else ""
    app.show(
        made,
        lambda: app.note(
            f"{made.machine}: {made.id}, {human_size(made.size)}, {made.consistency}, "
            f"{made.kind}{why}"
        ),
    )


@command("list")
@_folder
@_machine
@pass_app
def list_backups(app: App, folder: Path, machine: str | None) -> None:
    """List the backups in FOLDER, all or those of MACHINE, the oldest first."""
    from vmctl.backups import Backups  # noqa: PLC0415 - not before it is needed

    found = Backups(folder).list(machine)
    app.show(found, lambda: _print(found))


def _print(found: Sequence[Backup]) -> None:
    print_table(
        ("MACHINE", "ID", "CREATED", "KIND", "SIZE", "STATE", "PROBLEM"),
        [
            (
                entry.machine or entry.uuid,
                entry.id,
                ""
                if entry.created is None
                else entry.created.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
                # What goes on from the one above it stands a little to the right.
                f"  {entry.kind}" if entry.parent else entry.kind,
                human_size(entry.size),
                entry.consistency,
                entry.problem,
            )
            for entry in found
        ],
    )


@command("verify")
@_folder_or_stdin
@_machine
@click.option("--id", "which", metavar="ID", help="Only this backup, and what it goes on from.")
@pass_app
def verify(app: App, *, folder: Path, machine: str | None, which: str | None) -> None:
    """Read the backups in FOLDER, and say of each whether it can be restored.

    - reads one from stdin that was written to a stream.
    """
    from vmctl.backups import Backups  # noqa: PLC0415 - not before it is needed

    with app.progress(passing=True) as progress:
        if folder == _STREAM:
            found: Sequence[Verified] = [
                Backups.verify_stream(_stdin(), progress=progress),
            ]
        else:
            found = Backups(folder).verify(machine, id=which, progress=progress)
    app.show(
        found,
        lambda: print_table(
            ("MACHINE", "ID", "RESULT"),
            [(entry.machine or entry.uuid, entry.id, entry.problem or "whole") for entry in found],
        ),
    )
    if bad := [entry for entry in found if entry.problem]:
        raise ImageError(
            f"{len(bad)} of {len(found)} backups can't be restored",
            hint=f"{'the others can; ' if len(bad) < len(found) else ''}make a new one: "
            "`vmctl backup create --full`",
        )


def _stdin() -> BinaryIO:
    stdin = given_stdin()
    return open(os.devnull, "rb") if stdin is None else stdin  # noqa: PTH123


@command("restore")
@_folder_or_stdin
@click.option("--machine", metavar="MACHINE", help="Of which machine; else of the only one.")
@click.option("--id", "which", metavar="ID", help="Which backup; else the newest.")
@click.option("--name", metavar="NAME", help="The name of the new machine, instead of its own.")
@click.option(
    "--in-place",
    metavar="NAME",
    shell_complete=machine_names,
    help="Take the machine NAME itself back; it must be off.",
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@pass_app
def restore(
    app: App,
    *,
    folder: Path,
    machine: str | None,
    which: str | None,
    name: str | None,
    in_place: str | None,
    yes: bool,
) -> None:
    """Make a machine of a backup in FOLDER. It is not started.

    With --in-place the machine that it was made of is taken back; what is on its disks by now is
    lost. - makes a new one of a backup from stdin.
    """
    if in_place is not None and (name is not None or folder == _STREAM):
        raise UsageError(
            "a machine is taken back by a backup in a folder, and keeps its name",
            hint="leave out --name; a stream becomes a new machine",
        )
    if in_place is not None:
        _take_back(app, folder, in_place, which, ask=not yes and asks_on_terminal())
        return

    def review(found: Incoming) -> None:
        with aside():
            for warning in found.warnings:
                app.warn(warning)

    with app.connect() as host:
        with app.progress(passing=True) as progress:
            if folder == _STREAM:
                made = host.import_machine(
                    _stdin(), name=name, format="bundle", review=review, progress=progress
                )
            else:
                made = host.restore(
                    folder, machine=machine, id=which, name=name, review=review, progress=progress
                )
        info = made.info()
    app.show(
        info,
        lambda: print_table(("NAME", "STATE", "PHASE"), [(info.name, info.state, info.phase)]),
    )


def _take_back(app: App, folder: Path, name: str, which: str | None, *, ask: bool) -> None:
    with app.machine(name) as machine:
        if ask:
            app.confirm(
                f"Replace what is on the disks of '{machine.name}' now?",
                otherwise=f"{machine.name}: nothing was replaced",
            )
        with app.progress(passing=True) as progress:
            remarks = machine.restore(folder, id=which, progress=progress)
        done = {"name": machine.name, "restored": True, "remarks": remarks}
    for remark in remarks:
        app.warn(remark)
    app.show(done, lambda: app.note(f"{done['name']}: its disks are those of the backup"))


@command("prune")
@_folder
@_machine
@keep_options
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@pass_app
def prune(app: App, /, *, folder: Path, machine: str | None, dry_run: bool, **numbers: int) -> None:
    """Remove the backups in FOLDER that no rule keeps, and that none that is kept needs.

    The rules hold for each machine; times are UTC.
    """
    from vmctl.backups import Backups  # noqa: PLC0415 - not before it is needed

    rules = rules_of(numbers)
    found = Backups(folder).prune(rules, machine, dry_run=dry_run)
    app.show(found, lambda: _print_pruned(app, found, dry_run=dry_run))


def _print_pruned(app: App, found: Sequence[Pruned], *, dry_run: bool) -> None:
    gone = "would be removed" if dry_run else "removed"
    print_table(
        ("MACHINE", "ID", "KEPT"),
        [(entry.machine or entry.uuid, entry.id, ", ".join(entry.kept) or gone) for entry in found],
    )
    count = sum(not entry.kept for entry in found)
    app.note(f"{count} {gone}" if count else "all are kept")
