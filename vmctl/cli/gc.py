"""Garbage collection: what killed clients left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.output import print_table

if TYPE_CHECKING:
    from vmctl.gc import Leftover

__all__ = ["gc"]

# In these it is work on a whole machine that ends.
_STAYS = frozenset(
    {
        "flattening",
        "backing-up",
        "restoring",
        "snapshotting",
        "reverting",
        "merging",
        "changing",
        "cloning",
    }
)


def _parts(left: Leftover) -> Iterator[str]:
    if left.phase == "filtering":
        yield "packet filter"
    if left.snapshots:
        yield from (f"snapshot {name}; the machine stays" for name in left.snapshots)
    elif left.phase == "changing" and left.uuid:
        yield "the change of its devices; the machine stays"
    elif left.phase in _STAYS and left.uuid:
        yield "the work on its disks; the machine stays"
    elif left.uuid:
        yield "machine"
    yield from (f"volume {name}" for name in left.volumes)
    stopped = "" if left.phase == "creating-network" else ", stopped"
    yield from (f"network {name}{stopped}" for name in left.networks)
    yield from (f"reservation of {address}" for address in left.addresses)


@command("gc")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@pass_app
def gc(app: App, dry_run: bool) -> None:
    """Remove what killed clients left half-made, and nothing else."""
    with app.connect() as host:
        found = host.gc(dry_run=dry_run)

    def table() -> None:
        if found:
            print_table(
                ("NAME", "PHASE", "CLIENT", "WHAT GOES"),
                [(e.name, e.phase, e.client, part) for e in found for part in _parts(e)],
            )
        whole = all(entry.uuid and entry.phase not in _STAYS for entry in found)
        kind = "machine" if whole else "leftover"
        what = f"{len(found)} {kind}{'' if len(found) == 1 else 's'}"
        done = "would be removed" if dry_run else "removed"
        app.note(f"{what} {done}" if found else "nothing is left over")

    app.show(found, table)
