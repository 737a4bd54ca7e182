"""The options that say how many of many copies are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from vmctl.retention import Retention

__all__ = ["keep_options", "rules_of"]

_F = TypeVar("_F", bound=Callable[..., Any])
_WHAT = {
    "last": "The newest N.",
    "hourly": "One of each of N hours.",
    "daily": "One of each of N days.",
    "weekly": "One of each of N weeks.",
}


def keep_options(function: _F) -> _F:
    """Give a command ``--keep-last``, ``--keep-hourly``, ``--keep-daily`` and ``--keep-weekly``."""
    for rule, what in reversed(_WHAT.items()):
        option = click.option(
            f"--keep-{rule}", type=click.IntRange(0), default=0, metavar="N", help=what
        )
        function = option(function)
    return function


def rules_of(numbers: Mapping[str, int]) -> Retention:
    """Return what these options say.

    Args:
        numbers: ``keep_last`` and so on.
    """
    from vmctl.retention import Retention  # noqa: PLC0415 - other commands do without it

    return Retention(**{rule: numbers[f"keep_{rule}"] for rule in _WHAT})
