"""Finds the code blocks and links of the documentation, for the tests that run and check them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The file it stands in, relative to the project's folder.
        line: The number of its first line.
        language: The word behind the fence.
        file: The file's name that may follow that word.
        text: What is between the fences.
    """

    page: str
    line: int
    language: str
    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        """The commands of a console block, behind the prompts of users and of root.

        A line that ends in a backslash goes on.
        """
        lines = self.text.replace("\\\n", "").splitlines()
        return [line[2:].strip() for line in lines if line.startswith(("$ ", "# "))]


def pages() -> list[Path]:
    """The README, CONTRIBUTING.md and everything in docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """Yield a page's blocks of some languages, of all when none is given."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        if not languages or match[1] in languages:
            line = text.count("\n", 0, match.start()) + 1
            name = str(page.relative_to(ROOT))
            yield Block(name, line, match[1], match[2].strip(), match[3])


def links(page: Path) -> list[str]:
    """Return what a page's links lead to."""
    return _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(text)
    }
