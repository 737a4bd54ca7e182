"""The displays of a machine: where they are, their passwords, and a way to them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.streams import asks_on_terminal, given_stdin
from vmctl.errors import UsageError

if TYPE_CHECKING:
    from vmctl.vm import VM

__all__ = ["display"]


@command("display")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@click.option("--type", "kind", metavar="TYPE", help="Which one: vnc or spice.")
@click.option("--set-password", is_flag=True, help="Read a password from stdin, and set it.")
@click.option("--remove-password", is_flag=True, help="Ask for none from the next start on.")
@click.option(
    "--valid-for",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long that password is taken.",
)
@click.option(
    "--forward",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Make a port of this machine lead to it, until Ctrl-C; 0 for a free one.",
)
@pass_app
def display(
    app: App,
    *,
    name: str,
    kind: str | None,
    set_password: bool,
    remove_password: bool,
    valid_for: float | None,
    forward: int | None,
) -> None:
    """Print where the displays of NAME are, as URIs; set a password, or make a way to one."""
    if valid_for is not None and not set_password:
        raise click.UsageError("--valid-for needs --set-password", click.get_current_context())
    if set_password and remove_password:
        raise click.UsageError(
            "--set-password or --remove-password, not both", click.get_current_context()
        )
    if forward is not None and not app.wants_table:
        raise click.UsageError("--forward prints a URI, and no data", click.get_current_context())
    with app.machine(name) as machine:
        if set_password:
            machine.screen.set_password(_password(), type=kind, valid_for=valid_for)
            app.note(f"{machine.name}: the password is set")
        if remove_password:
            machine.screen.remove_password(type=kind)
            app.note(f"{machine.name}: from its next start on the display asks for no password")
        if forward is not None:
            _forward(app, machine, forward, kind)
            return
        found = [entry for entry in machine.screen.displays() if kind in {None, entry.type}]
    if (set_password or remove_password) and app.wants_table:
        return
    app.show(found, lambda: _print(app, name, [entry.uri for entry in found if entry.uri]))


def _print(app: App, name: str, uris: list[str]) -> None:
    for uri in uris:
        click.echo(uri)
    if not uris:
        app.note(f"{name}: no display has a port now")


def _password() -> str:
    if asks_on_terminal():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    stdin = given_stdin()
    data = b"" if stdin is None else stdin.read()
    try:
        return data.decode("ascii").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError(
            "what stands on stdin is no password", hint="printable characters of ASCII"
        ) from None


def _forward(app: App, machine: VM, port: int, kind: str | None) -> None:
    kinds = [entry.type for entry in machine.screen.displays() if kind in {None, entry.type}]
    with machine.screen.forward(port, type=kind) as relay:
        click.echo(f"{kinds[0]}://127.0.0.1:{relay.port}")
        app.note("Ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            app.note("")
