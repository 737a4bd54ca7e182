"""Keys by name, texts as keys, and pictures as PNG."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.errors import HypervisorError, UsageError
from vmctl.guest.keys import KEYS, parse_chord
from vmctl.guest.layouts import LAYOUTS, keys_for
from vmctl.guest.pixmap import as_png, size_of

_HEADER = Path("/usr/include/linux/input-event-codes.h")


def test_a_chord() -> None:
    assert parse_chord("ctrl-alt-delete") == (29, 56, 111)
    assert parse_chord("Ctrl+Alt+Del") == (29, 56, 111)
    assert parse_chord("a") == (30,)
    assert parse_chord("ctrl-minus") == (29, 12)


@pytest.mark.parametrize(
    ("keys", "brief", "hint"),
    [
        ("ctrl-alt-delte", "a keyboard has no key 'delte'", "delete"),
        ("anykey", "a keyboard has no key 'anykey'", "vmctl type"),
        ("ctrl--", "'ctrl--' lacks the name of a key", "ctrl-minus"),
        ("", "'' lacks the name of a key", "minus"),
        ("\u00e9", "a keyboard has no key '\u00e9'", "vmctl type"),
        ("-".join("abcdefghijklmnopq"), "17 keys at once are too many", "16"),
    ],
)
def test_keys_that_a_keyboard_does_not_have(keys: str, brief: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_chord(keys)
    assert caught.value.brief == brief
    assert hint in caught.value.hint


@pytest.mark.skipif(not _HEADER.exists(), reason="Linux's own list of keys is not installed")
def test_the_codes_are_those_of_linux() -> None:
    ours = {name: code for name, code in KEYS.items() if not name.startswith("kpjp")}
    theirs = {
        name.lower(): int(code)
        for name, code in re.findall(r"#define KEY_(\w+)\s+(\d+)\b", _HEADER.read_text())
    }
    # What is printed on the keys is not always what Linux calls them.
    aliases = {"break", "print"}
    known = {name: code for name, code in ours.items() if name in theirs and name not in aliases}
    assert len(known) > 120
    assert known == {name: theirs[name] for name in known}


@pytest.mark.parametrize(
    ("layout", "text", "chords"),
    [
        ("us", 'd C:\\"\n', "d space shift-c shift-semicolon backslash shift-apostrophe enter"),
        ("us", "y~\r", "y shift-grave enter"),
        ("de", "y\\@|", "z altgr-minus altgr-q altgr-102nd"),
        ("de", "^=\u00df", "grave space shift-0 minus"),
    ],
)  # fmt: skip
def test_a_text_as_keys(layout: str, text: str, chords: str) -> None:
    assert keys_for(text, layout) == [parse_chord(chord) for chord in chords.split()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_all_of_ascii(layout: str) -> None:
    printable = "".join(map(chr, range(32, 127)))
    chords = keys_for(printable, layout)
    assert len(chords) >= len(printable)
    known = LAYOUTS[layout]
    written = [known[character] for character in printable]
    assert len(set(written)) == len(written)


def test_what_can_not_be_typed() -> None:
    with pytest.raises(UsageError) as caught:
        keys_for("gr\u00fcn", "us")
    assert "'\u00fc', character 3" in caught.value.brief
    assert "the layout de has it" in caught.value.hint
    with pytest.raises(UsageError, match="\u20bf") as caught:
        keys_for("\u20bf", "de")
    with pytest.raises(UsageError) as caught:
        keys_for("a", "dvorak")
    assert caught.value.hint == "one of: us, de"


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_pixmap_as_png(width: int, height: int, data: st.DataObject) -> None:
    size = 3 * width * height
    pixels = data.draw(st.binary(min_size=size, max_size=size))
    png = as_png(f"P6\n{width} {height}\n255\n".encode() + pixels)
    assert size_of(png) == (width, height)
    assert as_png(png) is png
    place, lines, kinds = 8, b"", []
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        body = png[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", png[place + 8 + length :][:4])[0]
        kinds.append(kind)
        lines += zlib.decompress(body) if kind == b"IDAT" else b""
        place += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    step = 3 * width + 1
    assert b"".join(lines[row * step + 1 : (row + 1) * step] for row in range(height)) == pixels


@pytest.mark.parametrize("picture", [b"", b"P6\n2 2\n255\nabc", b"GIF89a", b"P6\n0 0\n255\n"])
def test_what_is_no_picture(picture: bytes) -> None:
    with pytest.raises(HypervisorError):
        as_png(picture)
