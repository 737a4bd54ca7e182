"""The screen and the keyboard of a machine: ``vm.screen``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vmctl.errors import UsageError
from vmctl.guest.keys import parse_chord
from vmctl.guest.layouts import keys_for
from vmctl.guest.pixmap import as_png
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record
from vmctl.hypervisor.screens import press_keys, take_screenshot

__all__ = ["Screen"]

# libvirt waits for nothing, and QEMU keeps 1024 key events at most. At this pace, a PC's keyboard
# of 16 keys' memory is read in time by whatever reads it at all.
_HOLD = 0.04
_LONGEST_HOLD = 60.0


class Screen:
    """A machine's screen and keyboard, which a guest has that has nothing else.

    Args:
        domain: The machine.
        record: Returns vmctl's record of it, or raises.
    """

    def __init__(self, domain: Domain, *, record: Callable[[], Record]) -> None:
        self._domain = domain
        self._record = record

    def screenshot(self, *, screen: int = 0) -> bytes:
        """Return what it shows, as PNG.

        Args:
            screen: Which screen, counted from 0.

        Raises:
            NotFoundError: It has no such screen.
            WrongStateError: It is off.
        """
        if screen < 0:
            raise UsageError("screens are counted from 0", hint="leave it out for the first one")
        return as_png(take_screenshot(self._domain, screen))

    def send_keys(self, *keys: str, hold: float = _HOLD) -> None:
        """Press keys; each argument's together, and one argument after another.

        It takes about twice ``hold`` for each key.

        Args:
            keys: Names of keys, with ``-`` between those that are pressed together: ``enter``,
                ``ctrl-alt-delete``, ``shift-f10``.
            hold: Seconds from one press to the next, and from one release to the next.

        Raises:
            UsageError: A keyboard has no such key; nothing is pressed then.
            WrongStateError: The machine does not run.
            ConflictError: vmctl did not make it.
        """
        self._press([parse_chord(key) for key in keys], hold)

    def type_text(self, text: str, *, layout: str = "us", hold: float = _HOLD) -> None:
        r"""Type a text. What the guest makes of the keys depends on its own keyboard layout.

        It takes about twice ``hold`` for each character, twice that with the shift key.

        Args:
            text: The text; ``\n`` and ``\r`` are Enter.
            layout: The guest's layout: ``us`` or ``de``.
            hold: As in `send_keys`; more for a guest that loses keys.

        Raises:
            UsageError: The layout has no such character; nothing is typed then.
            WrongStateError: The machine does not run.
            ConflictError: vmctl did not make it.
        """
        self._press(keys_for(text, layout), hold)

    def _press(self, chords: Sequence[Sequence[int]], hold: float) -> None:
        if not 0.001 <= hold <= _LONGEST_HOLD:
            raise UsageError(
                f"keys can't be held for {hold:g} s",
                hint=f"between 0.001 and {_LONGEST_HOLD:g} seconds",
            )
        self._record()
        for chord in chords:
            press_keys(self._domain, chord, hold=round(hold * 1000))
            # QEMU's own time for it; keys that come sooner are queued, and dropped in the end.
            time.sleep(2 * len(chord) * hold)
