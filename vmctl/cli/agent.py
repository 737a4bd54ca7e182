"""The guest agent: ping, info, freeze, thaw, passwords, keys, time."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.errors import transport
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import human_size, print_fields
from vmctl.cli.streams import asks_on_terminal, given_stdin
from vmctl.errors import NotFoundError

if TYPE_CHECKING:
    from vmctl.guest.agent_facts import GuestInfo

__all__ = ["add_key", "agent", "freeze", "info", "ping", "set_password", "thaw", "time"]

agent = LazyGroup(
    "agent",
    sections={
        "Commands": {
            "ping": f"{__name__}:ping",
            "info": f"{__name__}:info",
            "freeze": f"{__name__}:freeze",
            "thaw": f"{__name__}:thaw",
            "set-password": f"{__name__}:set_password",
            "add-key": f"{__name__}:add_key",
            "time": f"{__name__}:time",
        }
    },
    help="Ask the guest's agent, which needs no network.",
)

_name = click.argument("name", metavar="NAME", shell_complete=machine_names)
_user = click.argument("user", metavar="USER")


@command("ping")
@_name
@pass_app
def ping(app: App, name: str) -> None:
    """Ask whether the agent of NAME answers."""
    with app.machine(name) as machine, transport():
        seconds = machine.agent.ping()
    found = {"name": machine.name, "seconds": round(seconds, 3)}
    app.show(found, lambda: app.note(f"{machine.name}: its agent answers"))


@command("info")
@_name
@pass_app
def info(app: App, name: str) -> None:
    """Show what the guest of NAME says of itself."""
    with app.machine(name) as machine:
        found = machine.agent.info()
    app.show(found, lambda: _print(found))


def _print(found: GuestInfo) -> None:
    mounted = [
        f"{entry.mountpoint}: {entry.type}"
        + ("" if entry.size is None else f", {human_size(entry.size)}")
        + ("" if entry.used is None else f", {human_size(entry.used)} used")
        for entry in found.filesystems
    ]
    print_fields(
        [
            ("agent", found.agent_version),
            ("hostname", found.hostname),
            ("os", found.os),
            ("kernel", found.kernel),
            ("machine", found.machine),
            ("timezone", found.timezone),
            ("frozen", "yes" if found.frozen else "no"),
            ("users", ", ".join(user.name for user in found.users)),
            ("mounted", mounted),
        ]
    )


@command("freeze")
@_name
@pass_app
def freeze(app: App, name: str) -> None:
    """Freeze the file systems in NAME, until `vmctl agent thaw` lets them go on."""
    with app.machine(name) as machine:
        count = machine.agent.freeze()
    found = {"name": machine.name, "frozen": True, "filesystems": count}
    app.show(
        found,
        lambda: app.note(f"{machine.name}: frozen; `vmctl agent thaw {machine.name}` ends it"),
    )


@command("thaw")
@_name
@pass_app
def thaw(app: App, name: str) -> None:
    """Let the file systems in NAME go on."""
    with app.machine(name) as machine:
        count = machine.agent.thaw()
    found = {"name": machine.name, "frozen": False, "filesystems": count}
    app.show(found, lambda: app.note(f"{machine.name}: thawed"))


@command("set-password")
@_name
@_user
@click.option("--crypted", is_flag=True, help="It is what crypt(5) makes of the password.")
@pass_app
def set_password(app: App, name: str, user: str, *, crypted: bool) -> None:
    """Set the password of USER in NAME; it is asked for, or read from stdin."""
    with app.machine(name) as machine:
        password = _password(user)
        machine.agent.set_password(user, password, crypted=crypted)
    found = {"name": machine.name, "user": user}
    app.show(found, lambda: app.note(f"{machine.name}: {user} has a new password"))


def _password(user: str) -> str:
    if asks_on_terminal():
        answer: str = click.prompt(
            f"The new password of {user}", hide_input=True, confirmation_prompt=True, err=True
        )
        return answer
    stdin = given_stdin()
    line = b"" if stdin is None else stdin.read()
    try:
        return line.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise click.UsageError(
            "the password on stdin is not UTF-8", click.get_current_context()
        ) from None


@command("add-key")
@_name
@_user
@click.argument("file", metavar="FILE")
@pass_app
def add_key(app: App, name: str, user: str, file: str) -> None:
    """Let USER log in to NAME by the public keys in FILE, a line each; - reads stdin."""
    lines = [line.strip() for line in _text_of(file).splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise click.UsageError(f"there is no key in {file}", click.get_current_context())
    with app.machine(name) as machine:
        machine.agent.add_authorized_keys(user, keys)
    found = {"name": machine.name, "user": user, "keys": len(keys)}
    app.show(found, lambda: app.note(f"{machine.name}: {user} can log in by {len(keys)} more"))


def _text_of(file: str) -> str:
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            text: str = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(
            f"can't read {file}",
            details=str(error),
            hint="give a file with public keys, as ssh-keygen writes it: *.pub",
        ) from error
    return text


@command("time")
@_name
@click.option("--set", "setting", is_flag=True, help="Set this machine's time first.")
@pass_app
def time(app: App, name: str, *, setting: bool) -> None:
    """Print what the guest of NAME takes for the time."""
    with app.machine(name) as machine:
        if setting:
            machine.agent.set_time()
        found = machine.agent.time()
    app.show(
        {"name": machine.name, "time": found},
        lambda: click.echo(found.isoformat(timespec="seconds"), file=sys.stdout),
    )
