"""The screen and the keyboard of a machine: screenshot, send-key, type."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.streams import given_stdin
from vmctl.errors import ConflictError, ResourceError, UsageError

__all__ = ["screenshot", "send_key", "type_"]

_name = click.argument("name", metavar="NAME", shell_complete=machine_names)
_hold = click.option(
    "--hold",
    type=click.FloatRange(min=1, max=60_000),
    default=40.0,
    show_default=True,
    metavar="MS",
    help="Milliseconds from each press and release to the next.",
)


@command("screenshot")
@_name
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True, dir_okay=False))
@click.option(
    "--screen",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Which screen, counted from 0.",
)
@click.option("--replace", is_flag=True, help="Replace FILE where it is there.")
@pass_app
def screenshot(app: App, name: str, file: str, screen: int, replace: bool) -> None:
    """Write what the screen of NAME shows to FILE, as PNG; - is stdout."""
    to_stdout = file == "-"
    if to_stdout and sys.stdout.isatty():
        raise UsageError(
            "a picture is not written to a terminal", hint="name a FILE, or redirect stdout"
        )
    if not to_stdout and not replace and Path(file).exists():
        raise ConflictError(f"there is a file '{file}' already", hint="--replace replaces it")
    with app.machine(name) as machine:
        picture = machine.screen.screenshot(screen=screen)
    if to_stdout:
        sys.stdout.buffer.write(picture)
        return
    _write(Path(file), picture)
    from vmctl.guest.pixmap import size_of  # noqa: PLC0415 - when needed

    width, height = size_of(picture)
    found = {"name": name, "file": file, "width": width, "height": height}
    app.show(found, lambda: app.note(f"{file}: {width} x {height}"))


def _write(path: Path, picture: bytes) -> None:
    """Write a file that appears when it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_bytes(picture)
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(
            f"can't write '{path}'", details=error.strerror or "", hint="choose another FILE"
        ) from error


@command("send-key")
@_name
@click.argument("keys", nargs=-1, required=True, metavar="KEYS...")
@_hold
@pass_app
def send_key(app: App, name: str, keys: tuple[str, ...], hold: float) -> None:
    """Press KEYS of the keyboard of NAME: ctrl-alt-delete, f2, shift-tab, enter.

    Those with - between them are pressed together, the words one after another.
    """
    with app.machine(name) as machine:
        machine.screen.send_keys(*keys, hold=hold / 1000)


@command("type")
@_name
@click.argument("text", metavar="TEXT")
@click.option("--enter", is_flag=True, help="Press Enter after it.")
@click.option(
    "--layout", default="us", show_default=True, metavar="LAYOUT", help="The guest's: us or de."
)
@_hold
@pass_app
def type_(app: App, *, name: str, text: str, enter: bool, layout: str, hold: float) -> None:
    """Type TEXT on the keyboard of NAME; - reads it from stdin, as a secret should be.

    A line feed is Enter; the one at the end of stdin is not typed.
    """
    if text == "-":
        stdin = given_stdin()
        data = b"" if stdin is None else stdin.read()
        try:
            text = data.decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError:
            raise UsageError(
                "what stands on stdin is no text", hint="keys are typed from text in UTF-8"
            ) from None
    with app.machine(name) as machine:
        machine.screen.type_text(text + ("\n" if enter else ""), layout=layout, hold=hold / 1000)
