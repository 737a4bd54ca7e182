"""Where guests are, and what they are called: addresses, hosts-file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.output import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.networking.discovery import AddressReport

__all__ = ["addresses", "block_option", "hosts_file", "put"]

block_option = click.option(
    "--file",
    metavar="FILE",
    help="Write it into FILE, as a block of its own, in the place of the one before.",
)


def _print(found: Sequence[AddressReport]) -> None:
    print_table(
        ("MAC", "NETWORK", "SOURCE", "SAYS"),
        [
            (entry.mac, entry.network, entry.source, ", ".join(entry.addresses) or entry.why)
            for entry in found
        ],
    )


@command("addresses")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@pass_app
def addresses(app: App, name: str) -> None:
    """Show what each source says of the addresses of NAME, running or not, and why it says nothing.

    Sources are the spec, the network's reservation, its lease, the guest's agent, and what the host
    has seen (ARP); of a NIC in user mode the port of the host that leads to its SSH.
    """
    with app.machine(name) as machine:
        found = machine.addresses()
    app.show(found, lambda: _print(found))


def put(app: App, data: object, text: str, *, label: str, file: str | None) -> None:
    """Print what was asked for, or write it into a file."""
    if file is None:
        app.show(data, lambda: click.echo(text, nl=False))
        return
    from vmctl.marked_block import write_block  # noqa: PLC0415 - not before it is needed

    changed = write_block(file, text, label=label)
    what = "written" if changed else "unchanged"
    app.show({"file": file, "changed": changed}, lambda: app.note(f"{file}: {what}"))


@command("hosts-file")
@click.option("--network", metavar="NETWORK", help="Only the guests of this network.")
@block_option
@pass_app
def hosts_file(app: App, network: str | None, file: str | None) -> None:
    """Print lines for /etc/hosts, by which this machine finds guests by their names.

    They have the addresses of vmctl's machines that are known without asking the guests: static
    ones, reserved ones, and leases.
    """
    with app.connect() as host:
        text = host.hosts_file(network)
        label = f"vmctl hosts-file {host.uri} {network or ''}".rstrip()
    lines = [line.split() for line in text.splitlines()]
    data = [{"address": line[0], "names": line[1:]} for line in lines]
    put(app, data, text, label=label, file=file)
