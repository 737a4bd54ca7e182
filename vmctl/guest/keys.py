"""The keys of a keyboard, by name; the codes are Linux's (``linux/input-event-codes.h``)."""

from __future__ import annotations

import difflib

from vmctl.errors import UsageError

__all__ = ["KEYS", "parse_chord"]

# By the code of the first one in each line.
_RUNS = {
    1: "esc 1 2 3 4 5 6 7 8 9 0 minus equal backspace tab",
    16: "q w e r t y u i o p leftbrace rightbrace enter leftctrl",
    30: "a s d f g h j k l semicolon apostrophe grave leftshift backslash",
    44: "z x c v b n m comma dot slash rightshift kpasterisk leftalt space capslock",
    59: "f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 numlock scrolllock",
    71: "kp7 kp8 kp9 kpminus kp4 kp5 kp6 kpplus kp1 kp2 kp3 kp0 kpdot",
    85: "zenkakuhankaku 102nd f11 f12 ro katakana hiragana henkan katakanahiragana muhenkan",
    96: "kpenter rightctrl kpslash sysrq rightalt",
    102: "home up pageup left right end down pagedown insert delete",
    113: "mute volumedown volumeup power kpequal",
    119: "pause",
    121: "kpcomma hangeul hanja yen leftmeta rightmeta compose",
    139: "menu",
    142: "sleep wakeup",
    183: "f13 f14 f15 f16 f17 f18 f19 f20 f21 f22 f23 f24",
}
_ALIASES = {
    "escape": "esc",
    "return": "enter",
    "ret": "enter",
    "ctrl": "leftctrl",
    "control": "leftctrl",
    "shift": "leftshift",
    "alt": "leftalt",
    "altgr": "rightalt",
    "meta": "leftmeta",
    "super": "leftmeta",
    "win": "leftmeta",
    "del": "delete",
    "ins": "insert",
    "pgup": "pageup",
    "pgdn": "pagedown",
    "print": "sysrq",
    "printscreen": "sysrq",
    "break": "pause",
    "bksp": "backspace",
    "period": "dot",
    "spc": "space",
}

KEYS: dict[str, int] = {
    name: first + offset
    for first, names in _RUNS.items()
    for offset, name in enumerate(names.split())
}
"""Name to code; `ctrl`, `alt`, `shift`, `meta` and other short names are in it too."""
KEYS.update({alias: KEYS[name] for alias, name in _ALIASES.items()})

# virDomainSendKey: VIR_DOMAIN_SEND_KEY_MAX_KEYS.
_MOST_TOGETHER = 16


def parse_chord(text: str) -> tuple[int, ...]:
    """Return the codes of keys that are pressed together.

    Args:
        text: Their names with ``-`` or ``+`` between them: ``ctrl-alt-delete``. Case is ignored.

    Raises:
        UsageError: A keyboard has no such key, or it is one of too many.
    """
    names = text.lower().replace("+", "-").split("-")
    for name in names:
        if name not in KEYS:
            raise _no_key(name, text)
    if len(names) > _MOST_TOGETHER:
        raise UsageError(
            f"{len(names)} keys at once are too many",
            hint=f"{_MOST_TOGETHER} can be pressed together; give others as keys of their own",
        )
    return tuple(dict.fromkeys(KEYS[name] for name in names))


def _no_key(name: str, text: str) -> UsageError:
    if not name:
        return UsageError(
            f"{text[:40]!r} lacks the name of a key",
            hint="write the keys '-' and '+' as minus and kpplus: ctrl-minus",
        )
    near = difflib.get_close_matches(name, KEYS, n=3)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "keys are called a, 7, f1, enter, esc, up, kp5, ctrl, alt, shift, meta ...; "
        "what is no key is typed as text: `vmctl type`"
    )
    return UsageError(f"a keyboard has no key {name[:40]!r}", hint=hint)
