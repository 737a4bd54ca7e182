"""The kept connection to one machine, opened again by the next call when it was lost."""

from __future__ import annotations

from collections.abc import Callable

import paramiko

from vmctl.errors import GuestUnreachableError
from vmctl.guest.sessions import Sessions
from vmctl.guest.ssh import SSHSession

__all__ = ["Link"]


class Link:
    """Gives channels to one machine. Thread-safe.

    A guest that restarts leaves a connection that looks alive until something is sent through it.
    So a kept one that gives no channel is opened again, once: nothing has reached the guest by
    then, and nothing happens twice.

    Args:
        uuid: The machine's.
        sessions: Where connections are kept.
        log_in: Opens a new one; raises what `VM.ssh` does.
    """

    def __init__(self, uuid: str, sessions: Sessions, log_in: Callable[[], SSHSession]) -> None:
        self._uuid = uuid
        self._sessions = sessions
        self._log_in = log_in

    def session(self) -> SSHSession:
        """Return the kept connection, or a new one, which is kept from now on."""
        kept = self._sessions.get(self._uuid)
        return kept if kept is not None else self._sessions.keep(self._uuid, self._log_in())

    def channel(self) -> paramiko.Channel:
        """Return a new session channel.

        Raises:
            GuestUnreachableError: The guest can't be reached.
        """
        return self._open(SSHSession.open_channel)

    def channel_to(self, address: str, port: int) -> paramiko.Channel:
        """Return a channel to a port that the guest can reach.

        Args:
            address: A name or an IP address, as the guest knows it.
            port: The port there.

        Raises:
            ConflictError: Nothing listens there, or the guest forbids it.
            GuestUnreachableError: The guest can't be reached.
        """
        return self._open(lambda session: session.open_channel_to(address, port))

    def _open(self, opened: Callable[[SSHSession], paramiko.Channel]) -> paramiko.Channel:
        kept = self._sessions.get(self._uuid)
        if kept is not None:
            try:
                return opened(kept)
            except GuestUnreachableError:
                self._sessions.drop(self._uuid, only=kept)
        return opened(self.session())
