"""In which pieces the tests are handed to processes that run side by side, and in which order.

A piece stays in one process: a file, for its tests share guests, or one test of a file whose tests
share none. The longest go first, so that all processes come to their end together.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

__all__ = ["APART", "QUICKSTART", "Pieces", "arrange", "piece_of", "weights"]

_WEIGHTS = Path(__file__).with_name("weights.toml")
# Files of tests that share nothing and take long.
APART = frozenset({"test_debian", "test_docs", "test_snapshot_model"})
# It looks at what the machine has, like its network's links, before and after it, and there is one
# at a time.
QUICKSTART = "quickstart"
_NAME = re.compile(r"(?P<module>\w+)\.py::(?P<test>\w+)(?:\[(?P<parameter>.+)\])?")


class Pieces(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out one piece after the other, in the order in which the tests were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return piece_of(nodeid)


def arrange(items: list[pytest.Item]) -> None:
    """Sort tests by their pieces."""
    weight = weights()

    def order(item: pytest.Item) -> tuple[int, str]:
        piece = piece_of(item.nodeid)
        return -weight.get(piece, 0), piece

    items.sort(key=order)


def piece_of(nodeid: str) -> str:
    """Return the name of the piece that a test belongs to, which is its file's or its own."""
    name = _NAME.search(nodeid)
    if name is None:
        return nodeid
    module, test, parameter = name.groups()
    if module not in APART:
        return module
    if QUICKSTART in test:
        return QUICKSTART
    return f"{module}.{test}" + (f"[{parameter}]" if parameter else "")


def weights() -> dict[str, int]:
    """Return about how many seconds the longer pieces take, by their names."""
    found: dict[str, int] = tomllib.loads(_WEIGHTS.read_text(encoding="utf-8"))
    return found
