"""The consoles that are kept open, one per machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Most keep none; what reads one is loaded when it is opened.
    from vmctl.guest.console_session import Console

__all__ = ["Consoles"]


class Consoles:
    """Consoles by the machine's UUID. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, Console] = {}

    def get(self, uuid: str, open_one: Callable[[], Console], *, reading: bool) -> Console:
        """Return the console that is kept, opened if there is none or it came to its end.

        Args:
            uuid: The machine.
            open_one: Opens its console.
            reading: Whether one that ended is of use as long as somebody has to read it.
        """
        with self._lock:
            kept = self._kept.get(uuid)
            if kept is not None and not kept.is_spent(reading=reading):
                return kept
            if kept is not None:
                del self._kept[uuid]
                kept.close()
            kept = self._kept[uuid] = open_one()
            return kept

    def drop(self, uuid: str) -> None:
        """Close the console of one machine."""
        with self._lock:
            kept = self._kept.pop(uuid, None)
        if kept is not None:
            kept.close()

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            kept = list(self._kept.values())
            self._kept.clear()
        for console in kept:
            console.close()
