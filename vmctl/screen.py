"""The screen and the keyboard of a machine: ``vm.screen``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from vmctl.errors import NotFoundError, UsageError, WrongStateError
from vmctl.guest.keys import parse_chord
from vmctl.guest.layouts import keys_for
from vmctl.guest.pixmap import as_png
from vmctl.guest.reach import Reach
from vmctl.guest.relay import Relay
from vmctl.hypervisor.displays import Display, read_displays, remove_password, write_password
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record
from vmctl.hypervisor.screens import press_keys, take_screenshot
from vmctl.spec.graphics import LONGEST_PASSWORD, GraphicsType

__all__ = ["Screen"]

# libvirt waits for nothing, and QEMU keeps 1024 key events at most. At this pace, a PC's keyboard
# of 16 keys' memory is read in time by whatever reads it at all.
_HOLD = 0.04
_LONGEST_HOLD = 60.0
_LONGEST_VALID = 10 * 366 * 86400.0
# Where a server is reached that listens on every address.
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class Screen:
    """A machine's screen and keyboard, which a guest has that has nothing else.

    Args:
        domain: The machine.
        record: Returns vmctl's record of it, or raises.
        reach: How the hypervisor is reached.
    """

    def __init__(self, domain: Domain, *, record: Callable[[], Record], reach: Reach) -> None:
        self._domain = domain
        self._record = record
        self._reach = reach

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

    def displays(self) -> tuple[Display, ...]:
        """Return its graphics servers, as they are now or will be at the next start."""
        return read_displays(self._domain)

    def set_password(
        self,
        password: str,
        *,
        type: str | None = None,  # noqa: A002 - the spec's own word
        valid_for: float | None = None,
    ) -> None:
        """Give a display another password, now and for the machine's next starts.

        Args:
            password: Up to 8 printable ASCII characters for VNC, 59 for SPICE.
            type: ``vnc`` or ``spice``; None for the only one that the machine has.
            valid_for: Seconds until it stops to be valid, for who connects then; None for ever.

        Raises:
            NotFoundError: The machine has no such display.
            UsageError: It has both, or that is no password.
            WrongStateError: It runs with a display without a password, which can't be given one.
            ConflictError: vmctl did not make it.
        """
        self._record()
        kind = self._kind(type)
        most = LONGEST_PASSWORD[kind]
        if not 0 < len(password) <= most or not (password.isascii() and password.isprintable()):
            raise UsageError(
                f"that is no password for a {kind} display",
                hint=f"1 to {most} printable characters of ASCII",
            )
        until = None
        if valid_for is not None:
            if not 0 < valid_for <= _LONGEST_VALID:
                raise UsageError(
                    f"a password can't be valid for {valid_for:g} s",
                    hint="more than 0 seconds and at most ten years",
                )
            until = datetime.now(UTC) + timedelta(seconds=valid_for)
        write_password(self._domain, kind, password, valid_until=until)

    def remove_password(self, *, type: str | None = None) -> None:  # noqa: A002 - as above
        """Let a display ask for no password from the machine's next start on.

        While the machine runs, its display goes on asking for the one that it has: QEMU can't
        change that. Whoever reaches its address sees the screen then, and types on it.

        Args:
            type: ``vnc`` or ``spice``; None for the only one that the machine has.

        Raises:
            NotFoundError: The machine has no such display.
            UsageError: It has both.
            ConflictError: vmctl did not make it.
        """
        self._record()
        remove_password(self._domain, self._kind(type))

    def _kind(self, wanted: str | None) -> GraphicsType:
        present = [display.type for display in self.displays()]
        if wanted is None and len(present) > 1:
            raise UsageError(
                f"'{self._domain.name}' has displays of {' and '.join(present)}",
                hint="say which one: `type`, or `--type` of `vmctl display`",
            )
        kind = wanted or (present[0] if present else GraphicsType.VNC)
        try:
            return GraphicsType(kind)
        except ValueError:
            raise UsageError(
                f"there is no password for a display of the type {kind[:40]!r}",
                hint=f"one of: {', '.join(GraphicsType)}",
            ) from None

    def forward(self, port: int = 0, *, type: str | None = None) -> Relay:  # noqa: A002
        """Make a port of this machine's loopback lead to a display, until the relay is closed.

        The way is that of SSH to a guest: directly, into a private host, or through a remote
        hypervisor by ``ssh -W``, which is for VNC only.

        Args:
            port: The port here; 0 for one that is free.
            type: ``vnc`` or ``spice``; None for the only one that the machine has.

        Raises:
            NotFoundError: The machine has no such display.
            WrongStateError: It is off.
            ConflictError: Something else listens on that port.
            HostUnavailableError: A remote hypervisor can't be reached by SSH.
        """
        kind = self._kind(type)
        if not self._domain.is_active():
            raise WrongStateError(
                f"'{self._domain.name}' is off: it has no display to connect to",
                state=self._domain.state().value,
                hint=f"start it: `vmctl start {self._domain.name}`",
            )
        for display in self.displays():
            if display.type == kind and display.port is not None:
                self._reach.check()
                address = _ANYWHERE.get(display.address, display.address)
                return Relay(self._reach, address, display.port, local_port=port)
        raise NotFoundError(
            f"'{self._domain.name}' has no {kind} display with a port",
            hint="a machine has one when its spec says so: `graphics: [vnc]`",
        )

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
