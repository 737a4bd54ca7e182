"""Security groups: create, apply, list, info, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import print_fields, print_table
from vmctl.cli.specs import read_security_group_spec
from vmctl.cli.streams import asks_on_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.security_groups import SecurityGroupInfo

__all__ = ["apply", "create", "delete", "info", "list_groups", "security_group"]

security_group = LazyGroup(
    "security-group",
    sections={
        "Commands": {
            "create": f"{__name__}:create",
            "apply": f"{__name__}:apply",
            "list": f"{__name__}:list_groups",
            "info": f"{__name__}:info",
            "delete": f"{__name__}:delete",
        }
    },
    help="Say who may reach which machines.",
)

_name = click.argument("name", metavar="NAME")
_file = click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")


def _print(found: Sequence[SecurityGroupInfo]) -> None:
    print_table(
        ("NAME", "RULES", "MACHINES", "DESCRIPTION"),
        [
            (entry.name, str(len(entry.rules)), str(len(entry.machines)), entry.description)
            for entry in found
        ],
    )


@command("create")
@_file
@pass_app
def create(app: App, file: str) -> None:
    """Make the security group that the spec FILE describes.

    FILE is YAML; - reads it from stdin. NICs are put into it by `security_groups` in their spec, or
    by `vmctl nic filter`.
    """
    spec = read_security_group_spec(file)
    with app.connect() as host:
        made = host.security_groups.create(spec)
    app.show(made, lambda: _print([made]))


@command("apply")
@_file
@pass_app
def apply(app: App, file: str) -> None:
    """Give a security group the rules in FILE, or make it where there is none.

    Running guests that are in it have them at once. Connections that there are go on.
    """
    spec = read_security_group_spec(file)
    with app.connect() as host:
        made = host.security_groups.apply(spec)
    app.show(made, lambda: _print([made]))


@command("list")
@pass_app
def list_groups(app: App) -> None:
    """List the security groups of the host."""
    with app.connect() as host:
        found = host.security_groups.list()
    app.show(found, lambda: _print(found))


def _words(rule: dict[str, Any]) -> str:
    """Return a rule in one line: ``ingress accept tcp 80, 443 from 192.0.2.0/24``."""
    side = "from" if rule["direction"] == "ingress" else "to"
    other = rule.get("cidr") or (f"group {rule['group']}" if rule.get("group") else "anybody")
    ports = ", ".join(rule.get("ports") or ())
    what = f"{rule.get('protocol', 'all')} {ports}".rstrip()
    return f"{rule['direction']} {rule.get('action', 'accept')} {what} {side} {other}"


def _print_one(found: SecurityGroupInfo) -> None:
    print_fields(
        [
            ("name", found.name),
            ("description", found.description),
            *(("rule", _words(rule)) for rule in found.rules),
            ("machines", ", ".join(found.machines)),
            ("addresses", ", ".join(found.addresses)),
            ("named by", ", ".join(found.named_by)),
        ]
    )


@command("info")
@_name
@pass_app
def info(app: App, name: str) -> None:
    """Show the rules of the security group NAME, and who is in it."""
    with app.connect() as host:
        found = host.security_groups.info(name)
    app.show(found, lambda: _print_one(found))


@command("delete")
@_name
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@pass_app
def delete(app: App, name: str, yes: bool) -> None:
    """Remove the security group NAME, which nobody is in.

    On a terminal it asks first.
    """
    with app.connect() as host:
        host.security_groups.info(name)
        deleted = (
            yes
            or not asks_on_terminal()
            or click.confirm(f"Delete the security group '{name}'?", err=True)
        )
        if deleted:
            host.security_groups.delete(name)
    app.show(
        {"name": name, "deleted": deleted},
        lambda: app.note(f"{name}: {'deleted' if deleted else 'kept'}"),
    )
