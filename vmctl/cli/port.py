"""Ports of the host that lead into a machine: list, publish, unpublish."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.devices.ports import PublishedPort

__all__ = ["list_ports", "port", "publish", "unpublish"]

port = LazyGroup(
    "port",
    sections={
        "Commands": {
            "list": f"{__name__}:list_ports",
            "publish": f"{__name__}:publish",
            "unpublish": f"{__name__}:unpublish",
        }
    },
    help="List, publish and withdraw ports of the host that lead into a machine, running or not.",
)

_name = click.argument("name", metavar="NAME", shell_complete=machine_names)
# An IPv6 address stands in brackets.
_ADDRESS = r"(?:(?P<address>\d+(?:\.\d+){3}|\[[0-9A-Fa-f:.]+\]):)?"
_FORWARD = re.compile(_ADDRESS + r"(?P<host>\d+):(?P<guest>\d+)(?:/(?P<protocol>tcp|udp))?")
_PORT = re.compile(_ADDRESS + r"(?P<host>\d+)(?:/(?P<protocol>tcp|udp))?")


def _read(pattern: re.Pattern[str], text: str, form: str) -> dict[str, Any]:
    found = pattern.fullmatch(text)
    if found is None:
        raise click.UsageError(f"{text[:80]!r} is not {form}")
    given: dict[str, Any] = {key: value for key, value in found.groupdict().items() if value}
    if "address" in given:
        given["address"] = given["address"].strip("[]")
    return {**given, **{key: int(given[key]) for key in ("host", "guest") if key in given}}


def _print(found: Sequence[PublishedPort]) -> None:
    print_table(
        ("ADDRESS", "PORT", "PROTOCOL", "GUEST PORT", "NIC", "OPEN"),
        [
            (
                entry.address,
                str(entry.host_port),
                entry.protocol,
                str(entry.guest_port),
                entry.mac,
                "yes" if entry.open else "",
            )
            for entry in found
        ],
    )


@command("list")
@_name
@pass_app
def list_ports(app: App, name: str) -> None:
    """List the ports of the host that lead into NAME, and which of them are open."""
    with app.machine(name) as machine:
        found = machine.ports.list()
    app.show(found, lambda: _print(found))


@command("publish")
@_name
@click.argument("ports", nargs=-1, required=True, metavar="[ADDRESS:]PORT:GUEST_PORT[/udp]...")
@click.option(
    "--nic", metavar="MAC", help="The NIC; the first that a port can lead to if not given."
)
@pass_app
def publish(app: App, name: str, ports: tuple[str, ...], nic: str | None) -> None:
    """Let ports of the host lead into NAME: at once where it runs, and whenever vmctl starts it.

    ADDRESS is the host's, and 127.0.0.1 if it is not given, which only the host itself reaches.
    """
    from vmctl.spec.nic import ForwardSpec  # noqa: PLC0415 - not before it is needed

    form = "[ADDRESS:]PORT:GUEST_PORT[/udp]"
    wanted = [ForwardSpec.model_validate(_read(_FORWARD, text, form)) for text in ports]
    with app.machine(name) as machine:
        found = machine.ports.publish(*wanted, mac=nic)
    app.show(found, lambda: _print(found))


@command("unpublish")
@_name
@click.argument("ports", nargs=-1, required=True, metavar="[ADDRESS:]PORT[/udp]...")
@pass_app
def unpublish(app: App, name: str, ports: tuple[str, ...]) -> None:
    """Close ports of the host, and let them lead into NAME no more."""
    given = [_read(_PORT, text, "[ADDRESS:]PORT[/udp]") for text in ports]
    with app.machine(name) as machine:
        gone = [
            machine.ports.unpublish(
                entry["host"],
                protocol=entry.get("protocol", "tcp"),
                address=entry.get("address"),
            )
            for entry in given
        ]

    def told() -> None:
        for entry in gone:
            app.note(f"{name}: {entry.address}:{entry.host_port}/{entry.protocol} is closed")

    app.show(gone, told)
