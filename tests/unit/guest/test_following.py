"""A log that is read while it is written, and cut over into older parts in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.errors import NotFoundError
from vmctl.guest.following import Lines
from vmctl.hypervisor import growing
from vmctl.hypervisor.growing import GrowingLog

_LOG = "a.console.log"


@dataclass
class Files:
    """A pool whose files are kept here, and a virtlogd that writes to them."""

    files: dict[str, bytes] = field(default_factory=lambda: {_LOG: b""})
    seen: list[str] = field(default_factory=list)

    def refresh(self) -> None:
        self.seen = sorted(self.files)

    def names(self) -> list[str]:
        return self.seen

    def write(self, data: bytes) -> None:
        self.files[_LOG] += data

    def rotate(self, *, keep: int = 3) -> None:
        for number in range(keep - 1, -1, -1):
            older = f"{_LOG}.{number - 1}" if number else _LOG
            if older in self.files:
                self.files[f"{_LOG}.{number}"] = self.files.pop(older)
        self.files[_LOG] = b""


class Stored:
    """One of them, as a volume."""

    def __init__(self, pool: Files, name: str) -> None:
        self._data = pool.files.get(name)

    @classmethod
    def of(cls, pool: Files, name: str) -> Self:
        return cls(pool, name)

    def facts(self) -> SimpleNamespace:
        if self._data is None:
            raise NotFoundError("not there", hint="none")
        return SimpleNamespace(capacity=len(self._data))

    def read(self, *, start: int = 0, length: int = 0) -> bytes:
        data = self._data
        if data is None or start > len(data):
            raise NotFoundError("not there", hint="none")
        return data[start : start + length] if length else data[start:]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    made = Files()
    monkeypatch.setattr(growing, "open_pool", lambda *_: made)
    monkeypatch.setattr(growing, "StoredVolume", Stored)
    return made


def log() -> GrowingLog:
    connection: Any = None
    return GrowingLog(connection, "default", _LOG)


def rest(of: GrowingLog) -> bytes:
    """Read as `follow` does: one piece at a time."""
    read = b""
    while piece := next(of.read(), b""):
        read += piece
    return read


def test_what_is_added_comes(files: Files) -> None:
    reading = log()
    assert rest(reading) == b""
    files.write(b"one\n")
    assert rest(reading) == b"one\n"
    assert rest(reading) == b""
    files.write(b"two\n")
    assert rest(reading) == b"two\n"


def test_a_part_that_was_cut_over_is_read_to_its_end(files: Files) -> None:
    reading = log()
    files.write(b"one\n")
    assert rest(reading) == b"one\n"
    files.write(b"two\n")
    files.rotate()
    files.write(b"three, which is longer than the others\n")
    files.rotate()
    assert rest(reading) == b"two\nthree, which is longer than the others\n"
    files.write(b"four\n")
    assert rest(reading) == b"four\n"


def test_a_new_part_may_say_the_same_again(files: Files) -> None:
    reading = log()
    files.write(b"ready\n")
    assert rest(reading) == b"ready\n"
    files.rotate()
    assert rest(reading) == b""
    files.write(b"ready\n")
    assert rest(reading) == b"ready\n"
    assert rest(reading) == b""


def test_what_is_lost_does_not_stop_it(files: Files) -> None:
    reading = log()
    files.write(b"one\n")
    assert rest(reading) == b"one\n"
    for number in range(6):
        files.write(b"%d\n" % number)
        files.rotate()
    assert rest(reading) == b"3\n4\n5\n"


def test_a_log_that_is_gone(files: Files) -> None:
    reading = log()
    files.write(b"one\n")
    assert rest(reading) == b"one\n"
    files.files[f"{_LOG}.0"] = files.files.pop(_LOG)
    # It is being renamed just now.
    assert rest(reading) == b""
    files.files.clear()
    with pytest.raises(NotFoundError):
        rest(reading)


_STEPS = st.lists(st.one_of(st.binary(max_size=700), st.sampled_from(["rotate", "read"])))


@given(_STEPS)
def test_nothing_is_lost_or_read_twice(steps: list[bytes | str]) -> None:
    files, since_read = Files(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing, "open_pool", lambda *_: files)
        patch.setattr(growing, "StoredVolume", Stored)
        patch.setattr(growing, "_PIECE", 100)
        # A log begins with its newest part; from there on, it is followed.
        files.write(b"begin")
        reading, written = log(), b"begin"
        read = rest(reading)
        for number, step in enumerate(steps):
            if step == "read":
                read += rest(reading)
                since_read = 0
            elif step == "rotate" and since_read < 3:
                files.rotate(keep=5)
                since_read += 1
            elif isinstance(step, bytes):
                # A console never writes the same for long: here each step has its number.
                data = b"%d:" % number + step
                files.write(data)
                written += data
        # A part of the very length of the one before it is told from it when it grows.
        end = b"end " * 9999
        files.write(end)
        assert read + rest(reading) == written + end


def test_lines() -> None:
    cutter = Lines()
    assert list(cutter.feed(b"one\r\ntw\xc3")) == ["one"]
    assert list(cutter.feed(b"\xb6\x1b[1mlf\n\nlogin: ")) == ["tw\u00f6lf", ""]
    assert list(cutter.end()) == ["login: "]
    assert list(cutter.end()) == []


def test_a_line_without_an_end_is_cut() -> None:
    cutter = Lines()
    lines = list(cutter.feed(b"x" * 200_000))
    assert [len(line) for line in lines] == [65536] * 3
    assert list(cutter.end()) == ["x" * (200_000 - 3 * 65536)]
