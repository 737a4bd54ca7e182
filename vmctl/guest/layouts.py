"""Which keys write a character, by the layout that the guest has for its keyboard."""

from __future__ import annotations

from collections.abc import Mapping

from vmctl.errors import UsageError
from vmctl.guest.keys import KEYS

__all__ = ["LAYOUTS", "keys_for"]

Chord = tuple[int, ...]
Layout = Mapping[str, tuple[Chord, ...]]

_SHIFT, _ALTGR = KEYS["shift"], KEYS["altgr"]
# The keys of a keyboard's four rows, from the left; the same places on each layout.
_ROWS = (
    ["grave", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "minus", "equal"],
    ["q", "w", "e", "r", "t", "y", "u", "i", "o", "p", "leftbrace", "rightbrace"],
    ["a", "s", "d", "f", "g", "h", "j", "k", "l", "semicolon", "apostrophe", "backslash"],
    ["102nd", "z", "x", "c", "v", "b", "n", "m", "comma", "dot", "slash"],
)
_EVERYWHERE: dict[str, tuple[Chord, ...]] = {
    " ": ((KEYS["space"],),),
    "\n": ((KEYS["enter"],),),
    "\r": ((KEYS["enter"],),),
    "\t": ((KEYS["tab"],),),
    "\b": ((KEYS["backspace"],),),
    "\x1b": ((KEYS["esc"],),),
}


def _layout(
    plain: tuple[str, ...],
    shifted: tuple[str, ...],
    *,
    altgr: Mapping[str, str] | None = None,
    dead: str = "",
) -> Layout:
    """Return the layout of the characters in each row.

    Args:
        plain: The rows; a blank stands for a key without a character of its own.
        shifted: The same with the shift key.
        altgr: Key to the character that it has with AltGr.
        dead: The characters that only come with the next key, for which the space bar is pressed.
    """
    found: dict[str, tuple[Chord, ...]] = {}
    for modifiers, rows in (((), plain), ((_SHIFT,), shifted)):
        for names, characters in zip(_ROWS, rows, strict=True):
            for name, character in zip(names, characters, strict=True):
                found.setdefault(character, ((*modifiers, KEYS[name]),))
    for name, character in (altgr or {}).items():
        found.setdefault(character, ((_ALTGR, KEYS[name]),))
    for character in dead:
        found[character] = (*found[character], (KEYS["space"],))
    return found | _EVERYWHERE


LAYOUTS: dict[str, Layout] = {
    "us": _layout(
        ("`1234567890-=", "qwertyuiop[]", "asdfghjkl;'\\", " zxcvbnm,./"),
        ("~!@#$%^&*()_+", "QWERTYUIOP{}", 'ASDFGHJKL:"|', " ZXCVBNM<>?"),
    ),
    "de": _layout(
        ("^1234567890\u00df\u00b4", "qwertzuiop\u00fc+", "asdfghjkl\u00f6\u00e4#", "<yxcvbnm,.-"),
        (
            '\u00b0!"\u00a7$%&/()=?`',
            "QWERTZUIOP\u00dc*",
            "ASDFGHJKL\u00d6\u00c4'",
            ">YXCVBNM;:_",
        ),
        altgr={
            "2": "\u00b2",
            "3": "\u00b3",
            "7": "{",
            "8": "[",
            "9": "]",
            "0": "}",
            "minus": "\\",
            "q": "@",
            "e": "\u20ac",
            "rightbrace": "~",
            "102nd": "|",
            "m": "\u00b5",
        },
        dead="^\u00b4`",
    ),
}
"""Layout to character to the chords that write it, one after the other."""


def keys_for(text: str, layout: str) -> list[Chord]:
    """Return the chords that type a text.

    Raises:
        UsageError: There is no such layout, or it has no such character.
    """
    known = LAYOUTS.get(layout)
    if known is None:
        raise UsageError(
            f"there is no keyboard layout {layout[:40]!r}", hint=f"one of: {', '.join(LAYOUTS)}"
        )
    chords: list[Chord] = []
    for place, character in enumerate(text):
        if character not in known:
            others = [name for name, other in LAYOUTS.items() if character in other]
            raise UsageError(
                f"the {layout} keyboard has no key for {character!r}, character {place + 1} "
                "of the text",
                hint=f"the layout {others[0]} has it, if that is the guest's"
                if others
                else "nothing was typed; press keys that write nothing with `vmctl send-key`",
            )
        chords += known[character]
    return chords
