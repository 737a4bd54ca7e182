"""The streams that the process was given; a shell may have closed any of them."""

from __future__ import annotations

import sys
from typing import BinaryIO

__all__ = ["asks_on_terminal", "given_stdin"]


def given_stdin() -> BinaryIO | None:
    """Return the bytes of stdin; None when it is closed."""
    # Python leaves None there for a descriptor that is closed when it starts.
    return sys.stdin.buffer if sys.stdin is not None else None


def asks_on_terminal() -> bool:
    """Return whether there is somebody to ask."""
    stdin = given_stdin()
    return stdin is not None and stdin.isatty()
