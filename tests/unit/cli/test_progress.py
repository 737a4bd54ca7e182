"""What is shown of a long call."""

from __future__ import annotations

import io
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from vmctl.cli.progress import Lines, Rows, drawer
from vmctl.progress import ProgressCallback, Reporter


def _work(callback: ProgressCallback, machine: str = "web") -> None:
    reporter = Reporter(machine, callback)
    with reporter.phase("disks") as phase:
        phase.update("uploading", 0.25)
        phase.update("uploading", 0.75)
    with suppress(ValueError), reporter.phase("ssh") as phase:
        phase.update("connection\x1b[31m refused")
        raise ValueError


def test_lines_say_each_thing_once(capsys: pytest.CaptureFixture[str]) -> None:
    _work(Lines())
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit(" after", 1)[0] for line in lines] == [
        "web: disks",
        "web: disks: uploading",
        "web: disks: done",
        "web: ssh",
        "web: ssh: connection [31m refused",
        "web: ssh: failed",
    ]


def _drawn(rows: Rows, *, width: int = 60, encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=out, width=width, force_terminal=False)
    console.print(rows)
    out.seek(0)
    return out.read()


def test_rows_have_a_line_for_each_phase() -> None:
    rows = Rows(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8")))
    _work(rows)
    disks, ssh = _drawn(rows).splitlines()
    assert disks.split()[:2] == ["✓", "disks"]
    assert ssh.split()[:2] == ["✗", "ssh"]
    assert "connection" in ssh
    assert "\x1b" not in ssh


def test_a_phase_that_lasts_shows_how_far_it_is() -> None:
    rows = Rows(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8")))
    with Reporter("web", rows).phase("image") as phase:
        phase.update("uploading", 0.5)
        assert "uploading 50%" in _drawn(rows)


def test_what_is_long_is_cut_and_never_folded() -> None:
    rows = Rows(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8")))
    with Reporter("web", rows).phase("ssh") as phase:
        phase.update("word " * 100)
        lines = _drawn(rows, width=50).splitlines()
    assert len(lines) == 1
    assert len(lines[0]) <= 50


def test_several_machines_are_told_apart() -> None:
    rows = Rows(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8")))
    _work(rows, "a")
    _work(rows, "b")
    assert [line.split()[1] for line in _drawn(rows).splitlines()] == ["a:", "a:", "b:", "b:"]


def test_what_a_signal_has_to_say_stands_below() -> None:
    rows = Rows(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8")))
    _work(rows)
    rows.announce("it is being undone")
    assert _drawn(rows).splitlines()[-1].strip() == "it is being undone"


def test_a_terminal_without_unicode_gets_ascii() -> None:
    rows = Rows(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii")))
    _work(rows)
    assert _drawn(rows).isascii()


@pytest.mark.parametrize(
    ("verbose", "quiet", "shown"), [(False, False, False), (True, False, True), (True, True, False)]
)
def test_in_a_pipe_it_is_quiet_unless_asked(
    verbose: bool, quiet: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with drawer(verbose=verbose, quiet=quiet, passing=False) as callback:
        assert (callback is not None) is shown
