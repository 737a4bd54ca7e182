"""Ports and other programs' way into a guest: forward, ssh-config, ssh-proxy."""

from __future__ import annotations

import re
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.errors import complain, transport
from vmctl.cli.lazy import command
from vmctl.cli.naming import block_option, put
from vmctl.errors import VmctlError

__all__ = ["forward", "ssh_config", "ssh_proxy"]

_PORTS = re.compile(
    r"(?:(?P<local>\d+):)?(?:(?P<host>\[[^\]]+\]|[^:\d][^:]*|\d+(?:\.\d+){3}):)?(?P<port>\d+)"
)
_MOST = 65535


@dataclass(frozen=True)
class _Wanted:
    local: int
    host: str
    port: int


class _Ports(click.ParamType[_Wanted]):
    """``[LOCAL:][HOST:]PORT``."""

    name = "ports"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> _Wanted:
        """Read one."""
        found = _PORTS.fullmatch(value)
        wanted = found and _Wanted(
            local=int(found["local"] or 0),
            host=(found["host"] or "127.0.0.1").strip("[]"),
            port=int(found["port"]),
        )
        if not wanted or not 0 < wanted.port <= _MOST or wanted.local > _MOST:
            self.fail(f"{value!r} is not [LOCAL:][HOST:]PORT", param, ctx)
        return wanted


@command("forward")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@click.argument("ports", nargs=-1, required=True, type=_Ports(), metavar="[LOCAL:][HOST:]PORT...")
@click.option(
    "--address",
    default="127.0.0.1",
    metavar="ADDRESS",
    help="The address here to listen on; the default is for this machine alone.",
)
@pass_app
def forward(app: App, name: str, ports: tuple[_Wanted, ...], address: str) -> None:
    """Make ports of this machine lead into the guest of NAME, until Ctrl-C.

    Each PORT is the guest's, or that of a HOST that the guest reaches. Without LOCAL the port here
    is one that is free. What leads where is printed when all of them are open.
    """
    with app.machine(name) as machine, transport(), ExitStack() as opened:
        found = []
        for wanted in ports:
            port = opened.enter_context(
                machine.forward(
                    wanted.port,
                    guest_host=wanted.host,
                    local_port=wanted.local,
                    address=address,
                    on_refusal=complain,
                )
            )
            found.append(
                {
                    "address": address,
                    "port": port,
                    "guest_host": wanted.host,
                    "guest_port": wanted.port,
                }
            )
        app.show(found, lambda: _print(machine.name, found))
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            # The way in which this ends.
            app.note("closed")


def _print(name: str, found: list[dict[str, object]]) -> None:
    for entry in found:
        inside = "" if entry["guest_host"] == "127.0.0.1" else f" {entry['guest_host']}"
        here = f"{entry['address']} port {entry['port']}"
        click.echo(f"{here} leads to {name}{inside} port {entry['guest_port']}")


@command("ssh-config")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=machine_names)
@block_option
@pass_app
def ssh_config(app: App, names: tuple[str, ...], file: str | None) -> None:
    """Print lines for ~/.ssh/config, by which ssh, scp and rsync reach the guests of NAME.

    They go through vmctl wherever the guest is, and accept its host key and no other.
    """
    with app.connect() as host:
        texts = {name: app.find(host, name).ssh_config() for name in dict.fromkeys(names)}
        label = f"vmctl ssh-config {host.uri}"
    data = [{"name": name, "config": text} for name, text in texts.items()]
    put(app, data, "\n".join(texts.values()), label=label, file=file)


@command("ssh-proxy")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@pass_app
def ssh_proxy(app: App, name: str) -> None:
    """Join stdin and stdout with the SSH server of NAME: what ssh-config's lines call."""
    from vmctl.guest import proxy  # noqa: PLC0415 - not before it is needed

    with app.machine(name) as machine, transport():
        if sys.stdin is None or sys.stdin.isatty():
            raise VmctlError(
                "ssh-proxy speaks SSH with a program, and this is a terminal",
                hint=f"log in with `vmctl ssh {name}`",
            )
        try:
            proxy.join(machine.ssh_socket(), sys.stdin.fileno(), sys.stdout.fileno())
        except KeyboardInterrupt as signalled:
            # ssh ends what it has started by a signal, and has no use for words of farewell.
            raise click.exceptions.Exit(0) from signalled
