"""What is printed as data, and as errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import click
import pytest
import yaml

from vmctl.cli.errors import report
from vmctl.cli.output import human_size, plain, print_document, print_fields, print_table
from vmctl.errors import NotFoundError, WaitTimeoutError
from vmctl.gc import Leftover


class _Word(StrEnum):
    ONE = "one"


def test_plain_data() -> None:
    left = Leftover(name="a", uuid="u", phase="creating", client="c", volumes=("p/v",))
    assert plain([left]) == [
        {"name": "a", "uuid": "u", "phase": "creating", "client": "c", "volumes": ["p/v"]}
        | {"networks": [], "snapshots": [], "addresses": []}
    ]
    assert plain({"at": datetime(2024, 1, 2, tzinfo=UTC), "p": Path("/x"), "w": _Word.ONE}) == {
        "at": "2024-01-02T00:00:00+00:00",
        "p": "/x",
        "w": "one",
    }


@pytest.mark.parametrize("value", [[], {"a": "x\ny\n"}, ["é", 1, None, True]])
def test_one_document(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    print_document(value, "json")
    assert json.loads(capsys.readouterr().out) == value
    print_document(value, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == value


def test_a_table_keeps_a_row_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [("[red]x", "a\nb\x1b[0m"), ("", "y" * 300)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "[red]x   a b [0m"
    assert lines[2] == f"-        {'y' * 300}"
    assert all(line == line.rstrip() for line in lines)


def test_a_table_keeps_the_branches_of_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a", "├─ b", "│  └─ c", "└─ d", "   └─ e", " \n\tf\r\n ")
    print_table(("NAME",), [(name,) for name in names])
    assert capsys.readouterr().out.splitlines()[1:] == [*names[:-1], "f"]


def test_fields_take_a_line_for_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields([("one", "1"), ("many", ["x", "y"]), ("none", ())])
    assert capsys.readouterr().out.splitlines() == ["one    1", "many   x", "       y", "none   -"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (3 << 29, "1.5 GiB"), (1 << 60, "1024 PiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text


def test_an_error_with_details(capsys: pytest.CaptureFixture[str]) -> None:
    error = WaitTimeoutError("too late", phase="ssh", details="one\n\x1b[2Jtwo", hint="wait")
    assert report(error, debug=False) == 6
    assert capsys.readouterr().err == "error: too late\n  one\n  [2Jtwo\nhint: wait\n"


def test_an_error_without_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(NotFoundError("gone"), debug=False) == 3
    assert capsys.readouterr().err == "error: gone\n"


def test_other_endings(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(click.exceptions.Exit(9), debug=False) == 9
    assert report(SystemExit(4), debug=False) == 4
    assert capsys.readouterr().err == ""
    assert report(KeyboardInterrupt(), debug=False) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert report(click.Abort(), debug=False) == 130
