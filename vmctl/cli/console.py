"""A guest's serial console, on this terminal or in a pipe."""

from __future__ import annotations

import sys

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.streams import given_stdin
from vmctl.errors import UsageError, VmctlError, WrongStateError

__all__ = ["console"]


def _key(_context: click.Context, _parameter: click.Parameter, value: str) -> bytes:
    if value == "none":
        return b""
    if len(value) == 2 and value[0] == "^" and "@" <= value[1].upper() <= "_":
        return bytes((ord(value[1].upper()) - 64,))
    if len(value) == 1 and value.isascii():
        return value.encode("ascii")
    raise UsageError(
        f"{value[:40]!r} is no key",
        hint="write Ctrl-X as ^X; one other character, or none, works too",
    )


def _named(key: bytes) -> str:
    number = key[0]
    return f"Ctrl-{chr(number + 64)}" if number < 32 else chr(number)


@command("console")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@click.option("--force", is_flag=True, help="Take it over from another client.")
@click.option(
    "--escape",
    default="^]",
    show_default=True,
    metavar="KEY",
    callback=_key,
    help="The key that leaves; none for no such key.",
)
@click.option(
    "--size-key",
    default="none",
    show_default=True,
    metavar="KEY",
    callback=_key,
    help="The key that types an stty command with this window's size.",
)
@click.option("--device", metavar="PORT", help="Another port than the console: serial1.")
@pass_app
def console(
    app: App, *, name: str, force: bool, escape: bytes, size_key: bytes, device: str | None
) -> None:
    """Open the serial console of NAME on this terminal, or in a pipe.

    What the guest writes reaches the terminal as it is. A serial line has no window size: tell a
    Unix shell of it with `stty rows ROWS cols COLUMNS`, which the --size-key types for you.
    """
    if size_key and size_key == escape:
        raise UsageError("one key can't do both", hint="give --size-key another one than --escape")
    from vmctl.guest.terminal import Waker, interact, pass_through  # noqa: PLC0415 - when needed

    waker = Waker()
    stdin = given_stdin()
    with app.machine(name) as machine:
        opened = machine.console.open_stream(force=force, device=device, notify=waker.wake)
        try:
            if stdin is not None and stdin.isatty() and sys.stdout.isatty():
                leave = f"{_named(escape)} leaves" if escape else "no key leaves"
                leave += f", {_named(size_key)} types the window's size" if size_key else ""
                why = interact(
                    opened,
                    waker,
                    keyboard=stdin.fileno(),
                    screen=sys.stdout.fileno(),
                    escape=escape,
                    size_key=size_key,
                    # In raw mode a line feed does no more than that.
                    announce=lambda: app.note(
                        f"the console of '{machine.name}': {leave}; Enter may bring a prompt\r"
                    ),
                )
                app.note("")
            else:
                source = None if stdin is None else stdin.fileno()
                why, lost = pass_through(opened, waker, source=source, sink=sys.stdout.fileno())
                if lost:
                    app.warn(f"{lost} bytes were dropped: the output was not read in time")
        finally:
            opened.close()
            waker.close()
    _tell(app, why)


def _tell(app: App, why: VmctlError | None) -> None:
    """Say why it ended; a machine that stopped is no failure."""
    if isinstance(why, WrongStateError):
        app.note(why.brief)
    elif why is not None:
        raise why
