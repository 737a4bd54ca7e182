"""Data on stdout: as a table for people, as one JSON or YAML document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import click

__all__ = [
    "human_size",
    "one_line",
    "plain",
    "print_document",
    "print_fields",
    "print_line",
    "print_table",
]

_WIDE = 100_000


def plain(value: Any) -> Any:
    """Return a value as what JSON knows: mappings, lists, text, numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, Enum):
        value = value.value
    return str(value) if isinstance(value, Path) else value


def print_document(value: Any, style: str) -> None:
    """Print one document.

    Args:
        value: Anything that `plain` takes.
        style: ``json`` or ``yaml``.
    """
    data = plain(value)
    if style == "json":
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    import yaml  # noqa: PLC0415 - it takes its time, and few ask for it

    class Dumper(yaml.SafeDumper):
        """Writes text of many lines as such."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    click.echo(yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True), nl=False)


def print_line(value: Any, style: str) -> None:
    """Print one of a stream of values: a line of JSON, or a YAML document.

    Args:
        value: Anything that `plain` takes.
        style: ``json`` or ``yaml``.
    """
    if style == "json":
        click.echo(json.dumps(plain(value), ensure_ascii=False))
    else:
        click.echo("---")
        print_document(value, style)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, one line a row; what is empty is shown as ``-``."""
    from rich.table import Table  # noqa: PLC0415 - only when something is drawn
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(one_line(cell) or "-") for cell in row))
    _draw(table)


def print_fields(fields: Sequence[tuple[str, str | Sequence[str]]]) -> None:
    """Print names and values beneath each other; a list takes a line for each entry."""
    from rich.table import Table  # noqa: PLC0415 - only when something is drawn
    from rich.text import Text  # noqa: PLC0415

    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    for name, value in fields:
        lines = [value] if isinstance(value, str) else list(value) or [""]
        for number, line in enumerate(lines):
            table.add_row(Text(name if number == 0 else ""), Text(one_line(line) or "-"))
    _draw(table)


def _draw(table: Any) -> None:
    from rich.console import Console  # noqa: PLC0415 - only when something is drawn

    # As wide as it gets: a table that is cut, or folded, can't be read by the next program, and a
    # terminal folds it better. Lines don't end in blanks.
    console = Console(file=sys.stdout, width=_WIDE, highlight=False)
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    click.echo("\n".join(lines), color=console.color_system is not None)


def one_line(text: str) -> str:
    """Return a text without what would move a terminal's cursor, on one line.

    Blanks at its beginning and inside of it stay, for they are the branches of a tree.
    """
    first, *more = "".join(c if c.isprintable() else "\n" for c in text).split("\n")
    return " ".join(part for part in (first.rstrip(), *(part.strip() for part in more)) if part)


def human_size(size: int) -> str:
    """Return bytes with the largest unit that leaves at least 1: ``1.5 GiB``."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
