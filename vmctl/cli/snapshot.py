"""Snapshots: create, list, show, revert, delete."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.keeping import keep_options, rules_of
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import human_size, print_fields, print_table
from vmctl.cli.streams import asks_on_terminal
from vmctl.cli.trees import drawn
from vmctl.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmctl.snapshots import Snapshot
    from vmctl.vm import VM

__all__ = ["create", "delete", "info", "list_snapshots", "merge", "prune", "revert", "snapshot"]

snapshot = LazyGroup(
    "snapshot",
    sections={
        "Commands": {
            "create": f"{__name__}:create",
            "list": f"{__name__}:list_snapshots",
            "info": f"{__name__}:info",
            "revert": f"{__name__}:revert",
            "delete": f"{__name__}:delete",
            "merge": f"{__name__}:merge",
            "prune": f"{__name__}:prune",
        }
    },
    help="Take, list, go back to and delete snapshots of a machine.",
)

_name = click.argument("name", metavar="NAME", shell_complete=machine_names)
_which = click.argument("which", metavar="SNAPSHOT")
_yes = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


def _print(found: Sequence[Snapshot], sizes: Mapping[str, int]) -> None:
    tree = drawn(found, name=attrgetter("name"), parent=attrgetter("parent"))
    print_table(
        ("NAME", "CREATED", "STATE", "KIND", "MEMORY", "SIZE", "CURRENT", "DESCRIPTION"),
        [
            (
                line,
                entry.created.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
                entry.state,
                entry.kind,
                "yes" if entry.memory else "",
                human_size(sizes[entry.name]) if entry.name in sizes else "-",
                "yes" if entry.current else "",
                entry.description,
            )
            for line, entry in tree
        ],
    )


@command("create")
@_name
@_which
@click.option("--description", default="", metavar="TEXT", help="What to remember of it.")
@click.option(
    "--memory/--no-memory",
    default=None,
    help="Whether the memory of a running machine is in it; otherwise it is, if it can be.",
)
@click.option(
    "--quiesce/--no-quiesce",
    default=None,
    help="Whether the agent freezes the guest's file systems for it; otherwise it does, "
    "if the memory is not in it and an agent answers.",
)
@click.option(
    "--kind",
    type=click.Choice(("internal", "external")),
    help="Where it lies; otherwise as the machine allows.",
)
@pass_app
def create(app: App, /, name: str, which: str, **how: Any) -> None:
    """Take the snapshot SNAPSHOT of NAME: all disks together, and a running one's memory."""
    with app.machine(name) as machine, app.progress(passing=True) as progress:
        made = machine.snapshots.create(which, progress=progress, **how)
    app.show(
        made,
        lambda: app.note(
            f"{machine.name}: took the {made.kind} snapshot {made.name}"
            f"{' with its memory' if made.memory else ''} ({made.why})"
        ),
    )


@command("list")
@_name
@pass_app
def list_snapshots(app: App, name: str) -> None:
    """List the snapshots of NAME, each below the one that it was taken after.

    SIZE is what an external one takes on the host: its memory, its UEFI variables, and the layers
    that it froze, without the image underneath.
    """
    with app.machine(name) as machine:
        found = machine.snapshots.list()
        sizes = machine.snapshots.sizes() if found else {}
    data = [asdict(entry) | {"size": sizes.get(entry.name)} for entry in found]
    app.show(data, lambda: _print(found, sizes))


@command("info")
@_name
@_which
@pass_app
def info(app: App, name: str, which: str) -> None:
    """Show what is known of SNAPSHOT of NAME: what is in it, and what depends on it."""
    with app.machine(name) as machine:
        which = _known(machine, which)
        snapshots = machine.snapshots
        found = snapshots.list()
        entry = next(one for one in found if one.name == which)
        data = asdict(entry) | {
            "children": [one.name for one in found if one.parent == which],
            "size": snapshots.sizes().get(which),
            "held": list(snapshots.held().get(which, ())),
            "of_others": which in snapshots.of_others(),
        }
    app.show(data, lambda: _print_one(entry, data))


def _print_one(entry: Snapshot, data: Mapping[str, Any]) -> None:
    print_fields(
        [
            ("name", entry.name),
            ("description", entry.description),
            ("created", entry.created.astimezone().strftime("%Y-%m-%d %H:%M:%S")),
            ("state", entry.state),
            ("kind", entry.kind),
            ("memory", "yes" if entry.memory else "no"),
            ("current", "yes" if entry.current else "no"),
            ("size", "" if data["size"] is None else human_size(data["size"])),
            ("taken by", "another program" if data["of_others"] else "vmctl"),
            ("after", entry.parent),
            ("before", data["children"]),
            ("lies under", data["held"]),
        ]
    )


def _known(machine: VM, which: str) -> str:
    """Return the snapshot's name, when there is one.

    Raises:
        NotFoundError: There is none; names that are close are suggested.
    """
    names = [entry.name for entry in machine.snapshots.list()]
    if which in names:
        return which
    near = difflib.get_close_matches(which, names, n=3)
    raise NotFoundError(
        f"'{machine.name}' has no snapshot '{which[:80]}'",
        hint=f"did you mean {' or '.join(near)}?"
        if near
        else f"`vmctl snapshot list {machine.name}` shows what there is",
    )


@command("revert")
@_name
@_which
@click.option("--keep", metavar="NEW", help="First take the snapshot NEW of the present state.")
@_yes
@pass_app
def revert(app: App, name: str, which: str, keep: str | None, yes: bool) -> None:
    """Take NAME back to SNAPSHOT; what was not snapshotted is lost.

    On a terminal it asks first, unless that is kept.
    """
    with app.machine(name) as machine:
        which = _known(machine, which)
        if keep is None and not yes and asks_on_terminal():
            app.confirm(
                f"Take '{machine.name}' ({machine.state}) back to '{which}', and lose what it has "
                "now?",
                otherwise=f"{machine.name}: stays as it is",
            )
        with app.progress(passing=True) as progress:
            machine.snapshots.revert(which, keep=keep, progress=progress)
        found = {"name": machine.name, "snapshot": which, "state": machine.state, "kept": keep}
    kept = "" if keep is None else f"; what there was is kept in {keep}"
    app.show(found, lambda: app.note(f"{machine.name}: is back at {which}, {found['state']}{kept}"))


@command("delete")
@_name
@_which
@click.option("--children", is_flag=True, help="Those that were taken after it go as well.")
@_yes
@pass_app
def delete(app: App, name: str, which: str, children: bool, yes: bool) -> None:
    """Delete SNAPSHOT of NAME; later ones stay whole.

    The layers that no snapshot needs any more are merged, beside the guest. With --children, it
    asks first on a terminal.
    """
    with app.machine(name) as machine:
        which = _known(machine, which)
        if children and not yes and asks_on_terminal():
            app.confirm(
                f"Delete '{which}' of '{machine.name}', and all that were taken after it?",
                otherwise=f"{machine.name}: all snapshots stay",
            )
        with app.progress(passing=True) as progress:
            gone = machine.snapshots.delete(which, children=children, progress=progress)
    found = {
        "name": machine.name,
        "snapshot": which,
        "deleted": True,
        "snapshots": list(gone),
    }
    app.show(found, lambda: app.note(f"{machine.name}: deleted {', '.join(gone)}"))


@command("merge")
@_name
@pass_app
def merge(app: App, name: str) -> None:
    """Merge the layers of NAME that no snapshot needs, as after a deletion that was cut off."""
    with app.machine(name) as machine, app.progress(passing=True) as progress:
        merged = machine.snapshots.merge(progress=progress)
    found = {"name": machine.name, "merged": merged}
    app.show(found, lambda: app.note(f"{machine.name}: {_layers(merged)} merged"))


def _layers(count: int) -> str:
    return (
        "nothing was to be"
        if count == 0
        else "1 layer was"
        if count == 1
        else f"{count} layers were"
    )


@command("prune")
@_name
@keep_options
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@pass_app
def prune(app: App, /, name: str, dry_run: bool, **numbers: int) -> None:
    """Delete the snapshots of NAME that no rule keeps; the current one stays always.

    So does one that the disk of a linked clone lies on, and what another program took. Hours, days
    and weeks are counted in UTC; of each the newest snapshot is kept.
    """
    rules = rules_of(numbers)
    with app.machine(name) as machine, app.progress(passing=True) as progress:
        held, others = machine.snapshots.held(), machine.snapshots.of_others()
        gone = machine.snapshots.prune(rules, dry_run=dry_run, progress=progress)
    for each, users in held.items():
        app.note(f"{machine.name}: {each} stays, for {', '.join(users)} lies on it")
    for each in others:
        app.note(f"{machine.name}: {each} stays, for another program took it")
    found = {
        "name": machine.name,
        "deleted": list(gone),
        "dry_run": dry_run,
        "held": list(held),
        "of_others": list(others),
    }
    what = ", ".join(gone) or "nothing"
    app.show(
        found,
        lambda: app.note(f"{machine.name}: {'would delete' if dry_run else 'deleted'} {what}"),
    )
