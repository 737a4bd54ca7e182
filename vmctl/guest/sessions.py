"""The SSH connections that are kept, one per machine."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Whoever keeps none must not wait until paramiko is loaded.
    from vmctl.guest.ssh import SSHSession

__all__ = ["Sessions"]


class Sessions:
    """Connections by the machine's UUID. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, SSHSession] = {}

    def get(self, uuid: str) -> SSHSession | None:
        """Return the connection that is kept, if it still lives."""
        with self._lock:
            session = self._kept.get(uuid)
            if session is None or session.alive:
                return session
            del self._kept[uuid]
        session.close()
        return None

    def keep(self, uuid: str, session: SSHSession) -> SSHSession:
        """Keep a connection; where one is kept and lives already, that one stays.

        Returns:
            The one that is kept.
        """
        with self._lock:
            present = self._kept.get(uuid)
            stays = present is not None and present.alive
            kept = present if present is not None and stays else session
            self._kept[uuid] = kept
        for spare in (session, present):
            if spare is not None and spare is not kept:
                spare.close()
        return kept

    def drop(self, uuid: str, *, only: SSHSession | None = None) -> None:
        """Close the connection to one machine.

        Args:
            uuid: The machine's.
            only: The connection that is meant: another one, which somebody opened since, stays.
        """
        with self._lock:
            session = self._kept.get(uuid)
            if only is not None and session is not only:
                return
            self._kept.pop(uuid, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            sessions = list(self._kept.values())
            self._kept.clear()
        for session in sessions:
            session.close()
