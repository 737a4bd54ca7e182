"""Looking for text in what a guest writes."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmctl.errors import UsageError
from vmctl.guest.console import clean
from vmctl.guest.expecting import Expecting


def fed(*pieces: bytes, encoding: str = "utf-8", limit: int = 1000) -> Expecting:
    written = Expecting(encoding=encoding, limit=limit)
    for piece in pieces:
        written.feed(piece)
    return written


def test_text_is_taken_as_it_stands() -> None:
    written = fed(b"C:\\>$ login.: ", b"log", b"in: x")
    found = written.find(["login: "])
    assert found is not None
    assert (found.text, found.before, found.index) == ("login: ", "C:\\>$ login.: ", 0)
    assert written.text == "x"
    assert written.find(["$"]) is None


def test_the_earliest_of_several_is_taken() -> None:
    found = fed(b"error 42; done").find(["done", re.compile(r"error (\d+)(x)?")])
    assert found is not None
    assert (found.index, found.groups, found.before) == (1, ("42", None), "")


def test_of_two_at_the_same_place_the_first_one_is_taken() -> None:
    found = fed(b"login: ").find(["login", "login:"])
    assert found is not None
    assert (found.index, found.text) == (0, "login")


@given(st.binary(max_size=60), st.integers(min_value=0, max_value=60))
@example(b"\x1b]", 0)
def test_where_it_is_cut_does_not_matter(written: bytes, cut: int) -> None:
    whole, parts = fed(written + b" end"), fed(written[:cut], written[cut:], b" end")
    assert parts.text == whole.text
    # A title has no end but its own, so that what comes after one without waits for that.
    if b"\x1b]" not in written:
        assert whole.text == clean(written + b" end")


def test_a_sequence_that_comes_in_pieces_is_no_text() -> None:
    written = fed(b"\x1b", b"[1;3", b"2mlog\x1b]0;ti", b"tle\x1b", b"\\in\xc3", b"\xa9\x1b[0m")
    assert written.text == "login\u00e9"


def test_a_sequence_without_an_end_holds_nothing_back_for_ever() -> None:
    assert "end" in fed(b"\x1b]0;" + b"x" * 5000, b"end", limit=100).text


def test_what_is_kept_has_a_limit() -> None:
    written = fed(*[b"0123456789" * 100] * 100, b"end", limit=1000)
    assert len(written.text) == 1000
    found = written.find(["end"])
    assert found is not None
    assert len(found.before) == 997


def test_another_encoding() -> None:
    assert fed(b"\x81ber", encoding="cp437").text == "\u00fcber"
    with pytest.raises(UsageError):
        Expecting(encoding="nonsense")
