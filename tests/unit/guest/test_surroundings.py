"""What a command finds around it: run by real shells, with awkward values."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest

from vmctl.errors import UsageError
from vmctl.guest.surroundings import surround

_AWKWARD = "a'b\"c $HOME `id` \\n \\\\\n\nsecond line\n\n%s %b\t!"


@pytest.fixture(params=["bash", "dash", "busybox"])
def shell(request: pytest.FixtureRequest) -> list[str]:
    path = shutil.which(request.param)
    if path is None:
        pytest.skip(f"there is no {request.param} here")
    return [path, "sh"] if request.param == "busybox" else [path]


def run(shell: list[str], line: str, stdin: bytes, folder: Path) -> bytes:
    done = subprocess.run(
        [*shell, "-c", line],
        input=stdin,
        capture_output=True,
        check=False,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "SHELL": "/bin/sh", "CDPATH": "/usr"},
    )
    return done.stdout if done.returncode == 0 else str(done.returncode).encode()


def test_values_arrive_as_they_are_and_stdin_after_them(shell: list[str], tmp_path: Path) -> None:
    line, preamble = surround('printf %s "$W$E"; cat', env={"W": _AWKWARD, "E": ""})
    assert _AWKWARD.encode() not in line.encode()
    assert run(shell, line, preamble + b"\nrest\n", tmp_path) == f"{_AWKWARD}\nrest\n".encode()


def test_the_folder(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "-a b").mkdir()
    line, preamble = surround("pwd", cwd="-a b")
    assert preamble == b""
    assert run(shell, line, b"", tmp_path) == f"{tmp_path}/-a b\n".encode()
    assert run(shell, surround("pwd", cwd="nowhere")[0], b"", tmp_path) == b"126"
    # CDPATH would find it elsewhere.
    assert run(shell, surround("pwd", cwd="bin")[0], b"", tmp_path) == b"126"


def test_nothing_around_changes_nothing() -> None:
    assert surround("a | b") == ("a | b", b"")


def test_secrets_are_on_no_command_line() -> None:
    ways: tuple[Literal["ssh", "agent"], ...] = ("ssh", "agent")
    for via in ways:
        line, _ = surround("true", env={"TOKEN": "s3cret"}, user="ada", via=via)
        assert "s3cret" not in line


@pytest.mark.parametrize(
    "fields",
    [
        {"env": {"A B": "x"}},
        {"env": {"1A": "x"}},
        {"env": {"A;id": "x"}},
        {"env": {"A": "\0"}},
        {"cwd": ""},
        {"cwd": "a\0"},
        {"user": "-u"},
        {"user": "a b"},
        {"user": ""},
    ],
)
def test_what_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        surround("true", **fields)  # type: ignore[arg-type]
    assert caught.value.hint
