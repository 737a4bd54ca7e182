"""Trees in tables."""

from __future__ import annotations

from operator import itemgetter

from vmctl.cli.trees import drawn


def lines(*entries: tuple[str, str]) -> list[str]:
    return [line for line, _entry in drawn(entries, name=itemgetter(0), parent=itemgetter(1))]


def test_branches() -> None:
    assert lines(
        ("clean", ""), ("a", "clean"), ("b", "clean"), ("a1", "a"), ("a2", "a"), ("other", "")
    ) == [
        "clean",
        "├─ a",
        "│  ├─ a1",
        "│  └─ a2",
        "└─ b",
        "other",
    ]


def test_a_parent_that_is_not_there() -> None:
    assert lines(("a", "gone"), ("b", "a"), ("c", "c")) == ["a", "└─ b", "c"]


def test_nothing() -> None:
    assert lines() == []
