"""Storage pools: create, list, info, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import human_size, print_fields, print_table
from vmctl.cli.specs import read_pool_spec
from vmctl.cli.streams import asks_on_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.pools import PoolInfo

__all__ = ["create", "delete", "info", "list_pools", "pool"]

pool = LazyGroup(
    "pool",
    sections={
        "Commands": {
            "create": f"{__name__}:create",
            "list": f"{__name__}:list_pools",
            "info": f"{__name__}:info",
            "delete": f"{__name__}:delete",
        }
    },
    help="Make, list and remove storage pools.",
)

_name = click.argument("name", metavar="NAME")


def _print(found: Sequence[PoolInfo]) -> None:
    print_table(
        ("NAME", "TYPE", "STATE", "AUTOSTART", "CAPACITY", "FREE", "VOLUMES"),
        [
            (
                entry.name,
                entry.type,
                entry.state,
                "yes" if entry.autostart else "no",
                human_size(entry.capacity),
                human_size(entry.available),
                "" if entry.volumes is None else str(entry.volumes),
            )
            for entry in found
        ],
    )


@command("create")
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option(
    "--initialize",
    is_flag=True,
    help="Make the file system, partition table, volume group or zpool; on empty devices only.",
)
@pass_app
def create(app: App, file: str, initialize: bool) -> None:
    """Make the pool that the spec FILE describes, start it, and start it with the host.

    FILE is YAML; - reads it from stdin. If anything fails, all of it is undone.
    """
    spec = read_pool_spec(file)
    with app.connect() as host:
        made = host.pools.create(spec, initialize=initialize)
    app.show(made, lambda: _print([made]))


@command("list")
@pass_app
def list_pools(app: App) -> None:
    """List the pools of the host, whoever made them."""
    with app.connect() as host:
        found = host.pools.list()
    app.show(found, lambda: _print(found))


@command("info")
@_name
@pass_app
def info(app: App, name: str) -> None:
    """Show all that is known of the pool NAME."""
    with app.connect() as host:
        found = host.pools.info(name)
    app.show(
        found,
        lambda: print_fields(
            [
                ("name", found.name),
                ("uuid", found.uuid),
                ("type", found.type),
                ("state", found.state),
                ("autostart", "yes" if found.autostart else "no"),
                ("persistent", "yes" if found.persistent else "no"),
                ("capacity", human_size(found.capacity)),
                ("allocation", human_size(found.allocation)),
                ("available", human_size(found.available)),
                ("target", found.target),
                ("source", found.source),
                ("volumes", "" if found.volumes is None else str(found.volumes)),
            ]
        ),
    )


@command("delete")
@_name
@click.option("--with-volumes", is_flag=True, help="Delete its volumes too.")
@click.option("--keep-volumes", is_flag=True, help="Leave its volumes where they are.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@pass_app
def delete(app: App, name: str, with_volumes: bool, keep_volumes: bool, yes: bool) -> None:
    """Remove the pool NAME, unless a machine uses it.

    One that has volumes is removed only with one of the two options. On a terminal it asks first.
    """
    with app.connect() as host:
        host.pools.info(name)
        question = f"Delete the pool '{name}'{' and all its volumes' if with_volumes else ''}?"
        deleted = yes or not asks_on_terminal() or click.confirm(question, err=True)
        if deleted:
            host.pools.delete(name, with_volumes=with_volumes, keep_volumes=keep_volumes)
    app.show(
        {"name": name, "deleted": deleted},
        lambda: app.note(f"{name}: {'deleted' if deleted else 'kept'}"),
    )
