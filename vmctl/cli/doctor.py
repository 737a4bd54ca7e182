"""The doctor: what would make a launch fail, line by line."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.lazy import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.doctor import Check

__all__ = ["doctor"]

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}
_NARROWEST = 40


@command("doctor")
@pass_app
def doctor(app: App) -> None:
    """Check everything that would make a launch fail, and say how to mend it.

    The exit code is 0 when nothing fails; warnings are about what only some machines need.
    """
    settings = app.settings
    from vmctl.doctor import examine  # noqa: PLC0415 - not before it is needed
    from vmctl.progress import Reporter  # noqa: PLC0415

    with app.progress(passing=True) as progress, Reporter("doctor", progress).phase("examine"):
        checks = examine(settings.uri, pool=settings.pool)
    app.show(checks, lambda: _print(checks))
    if any(check.status == "fail" for check in checks):
        raise click.exceptions.Exit(1)


def _print(checks: Sequence[Check]) -> None:
    color = False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
    wide = max(len(check.name) for check in checks)
    on_terminal = sys.stdout.isatty()
    width = max(_NARROWEST, shutil.get_terminal_size().columns - wide - 8) if on_terminal else 0
    for check in checks:
        lines = _fold(check.detail, width)
        if check.hint:
            lines += _fold(f"mend: {check.hint}", width)
        word = click.style(f"{check.status:<4}", fg=_COLORS[check.status], bold=True)
        click.echo(f"{word}  {check.name:<{wide}}  {lines[0]}", color=color)
        for line in lines[1:]:
            click.echo(f"{'':4}  {'':{wide}}  {line}", color=color)


def _fold(text: str, width: int) -> list[str]:
    if not width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
