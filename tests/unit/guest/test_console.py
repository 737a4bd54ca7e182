"""What a guest writes must not be able to drive the reader's terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmctl.guest.console import clean


def test_control_sequences_go_and_text_stays() -> None:
    written = "\x1b[2J\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07tab\there\r\n\x1bcend\x9b31mx\x7f"
    assert clean(written.encode()) == "red\ntab\there\nend31mx"


def test_bytes_that_are_no_utf8_are_shown_as_such() -> None:
    assert clean(b"a\xffb") == "a\ufffdb"


@given(st.binary(max_size=200))
def test_nothing_that_a_terminal_obeys_is_left(written: bytes) -> None:
    left = {character for character in clean(written) if not character.isprintable()}
    assert not {c for c in left if ord(c) < 32 or 127 <= ord(c) < 160} - {"\n", "\t"}
