"""How the client reaches a guest: the one place that knows.

Directly, from inside a private host's network namespace, or through the hypervisor by SSH.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

import paramiko

from vmctl.errors import HostUnavailableError
from vmctl.guest.netns import connect_in
from vmctl.hypervisor.uri import HostAddress

__all__ = ["Reach"]


class Reach:
    """Opens connections to addresses as the hypervisor sees them. Thread-safe."""

    def __init__(self, host: HostAddress) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._jump: paramiko.SSHClient | None = None

    def open(self, address: str, port: int, *, timeout: float) -> Any:
        """Return a connected socket, or what behaves like one.

        Args:
            address: An address of the guest, or of the hypervisor itself (``127.0.0.1``).
            port: The port there.
            timeout: Seconds for the connection to be made.

        Raises:
            OSError: Nobody answers.
            HostUnavailableError: The hypervisor can't be reached by SSH.
        """
        if not self._host.is_local:
            return self._through_hypervisor(address, port, timeout)
        if self._host.network_namespace is not None:
            return connect_in(self._host.network_namespace, address, port, timeout)
        return socket.create_connection((address, port), timeout=timeout)

    def _through_hypervisor(self, address: str, port: int, timeout: float) -> Any:
        transport = self._jump_client(timeout).get_transport()
        if transport is None:
            raise HostUnavailableError(
                f"the SSH connection to {self._host.ssh_host} is gone",
                hint="try again; see whether the hypervisor is up",
            )
        try:
            return transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout
            )
        except paramiko.SSHException as error:
            raise OSError(f"{self._host.ssh_host} can't connect to {address}:{port}") from error

    def _jump_client(self, timeout: float) -> paramiko.SSHClient:
        with self._lock:
            if self._jump is not None:
                transport = self._jump.get_transport()
                if transport is not None and transport.is_active():
                    return self._jump
                self._jump.close()
                self._jump = None
            client = paramiko.SSHClient()
            client.load_system_host_keys()
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            try:
                client.connect(
                    self._host.ssh_host,
                    port=self._host.ssh_port or 22,
                    username=self._host.ssh_user or None,
                    timeout=timeout,
                )
            except (OSError, paramiko.SSHException) as error:
                client.close()
                raise HostUnavailableError(
                    f"can't reach {self._host.ssh_host} by SSH",
                    details=str(error),
                    hint=f"check that `ssh {self._host.ssh_host}` works without a question",
                ) from error
            self._jump = client
            return client

    def close(self) -> None:
        """Close what is kept open."""
        with self._lock, suppress(OSError):
            if self._jump is not None:
                self._jump.close()
                self._jump = None
