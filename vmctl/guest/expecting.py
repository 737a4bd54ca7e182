"""Looking for text in what a guest writes, in a buffer that does not grow without bound."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vmctl.errors import UsageError
from vmctl.guest.console import clean_text

__all__ = ["ConsoleMatch", "Expecting", "Pattern"]

Pattern = str | re.Pattern[str]
"""Text as it stands, or a regular expression."""

# The beginning of a control sequence whose end has not come yet.
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?)?\Z")
_LONGEST_SEQUENCE = 4096


@dataclass(frozen=True, kw_only=True)
class ConsoleMatch:
    """What a guest wrote, up to what was expected.

    Attributes:
        index: Which of several patterns it was, counted from 0.
        text: What matched.
        before: What the guest wrote before it, since the last match.
        groups: The groups of a regular expression; None for one that took no part.
    """

    index: int
    text: str
    before: str
    groups: tuple[str | None, ...] = ()


_Found = tuple[int, int, int, tuple[str | None, ...]]


def _search(pattern: Pattern, text: str, index: int) -> _Found | None:
    """Return (start, end, index, groups) of a pattern's first match."""
    if isinstance(pattern, str):
        start = text.find(pattern)
        return None if start < 0 else (start, start + len(pattern), index, ())
    match = pattern.search(text)
    return None if match is None else (match.start(), match.end(), index, match.groups())


class Expecting:
    """What a guest wrote and nobody has asked for yet, without control sequences.

    Args:
        encoding: How the guest writes text, as Python calls it.
        limit: Characters that are kept; older ones are dropped.

    Raises:
        UsageError: There is no such encoding.
    """

    def __init__(self, *, encoding: str = "utf-8", limit: int = 256 * 1024) -> None:
        try:
            self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        except LookupError:
            raise UsageError(
                f"there is no encoding {encoding[:40]!r}", hint="utf-8, cp437, cp850, latin-1 ..."
            ) from None
        self._limit = limit
        self._unfinished = ""
        self.text = ""

    def feed(self, written: bytes) -> None:
        """Add what came."""
        text = self._unfinished + self._decoder.decode(written)
        self._unfinished = ""
        cut = _UNFINISHED.search(text, max(0, len(text) - _LONGEST_SEQUENCE))
        if cut is not None:
            text, self._unfinished = text[: cut.start()], text[cut.start() :]
        self.text = (self.text + clean_text(text))[-self._limit :]

    def find(self, patterns: Sequence[Pattern]) -> ConsoleMatch | None:
        """Return the earliest match, and forget all up to its end; None when there is none yet."""
        best: _Found | None = None
        for index, pattern in enumerate(patterns):
            found = _search(pattern, self.text, index)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        if best is None:
            return None
        start, end, index, groups = best
        text = self.text
        self.text = text[end:]
        return ConsoleMatch(index=index, text=text[start:end], before=text[:start], groups=groups)

    def drain(self) -> str:
        """Return all that is kept, and forget it."""
        text, self.text = self.text, ""
        return text
