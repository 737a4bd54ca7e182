"""What the library warns of while it works, told to people when the work is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["told_afterwards"]


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it: right now progress may be drawn."""
        self.texts.append(record.getMessage())


@contextmanager
def told_afterwards(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell each thing that was warned of in the block once, whatever becomes of the block."""
    kept, log = _Kept(), logging.getLogger("vmctl")
    log.addHandler(kept)
    try:
        yield
    finally:
        log.removeHandler(kept)
        for text in dict.fromkeys(kept.texts):
            tell(text)
