"""Names that come from one another, drawn as a tree in a table's first column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["drawn"]

T = TypeVar("T")


def drawn(
    entries: Iterable[T], *, name: Callable[[T], str], parent: Callable[[T], str]
) -> Iterator[tuple[str, T]]:
    """Yield each entry below its parent, with its name and the lines that lead to it.

    One whose parent is not among them stands at the left; among siblings the order stays.

    Args:
        entries: The entries.
        name: Gives an entry's name.
        parent: Gives its parent's name.
    """
    found = {name(entry): entry for entry in entries}
    children: dict[str, list[str]] = {}
    for own, entry in found.items():
        above = parent(entry)
        children.setdefault(above if above in found and above != own else "", []).append(own)

    def below(above: str, lead: str) -> Iterator[tuple[str, T]]:
        own = children.get(above, [])
        for number, each in enumerate(own):
            last = number == len(own) - 1
            mark, more = ("", "") if above == "" else ("└─ ", "   ") if last else ("├─ ", "│  ")
            yield f"{lead}{mark}{each}", found[each]
            yield from below(each, lead + more)

    yield from below("", "")
