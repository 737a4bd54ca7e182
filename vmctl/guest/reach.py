"""How the client reaches a guest: the one place that knows.

Directly, from inside a private host's network namespace, or through the hypervisor by SSH.
"""

from __future__ import annotations

import socket
from typing import Any

from vmctl.guest.jump import connect_through
from vmctl.guest.netns import connect_in
from vmctl.hypervisor.uri import HostAddress

__all__ = ["Reach"]


class Reach:
    """Opens connections to addresses as the hypervisor sees them. Thread-safe."""

    def __init__(self, host: HostAddress) -> None:
        self._host = host

    def open(self, address: str, port: int, *, timeout: float) -> Any:
        """Return a connected socket, or what behaves like one.

        Args:
            address: An address of the guest, or of the hypervisor itself (``127.0.0.1``).
            port: The port there, of something that speaks first, as SSH servers do.
            timeout: Seconds for the connection to be made.

        Raises:
            OSError: Nobody answers, or the hypervisor can't be reached by SSH.
        """
        if not self._host.is_local:
            return connect_through(self._host, address, port, timeout)
        if self._host.network_namespace is not None:
            return connect_in(self._host.network_namespace, address, port, timeout)
        return socket.create_connection((address, port), timeout=timeout)
