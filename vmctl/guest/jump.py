"""A connection through the hypervisor, by the same ``ssh`` that libvirt itself takes to get there.

So whatever is set up for it works here as well: ``~/.ssh/config``, agents, other machines to jump
through, known hosts.
"""

from __future__ import annotations

import select
import socket
import subprocess
import tempfile
from typing import IO

from vmctl.hypervisor.uri import HostAddress

__all__ = ["JumpSocket", "connect_through"]

_END_SECONDS = 5.0
# The way to the hypervisor takes longer than the one from there to the guest.
_SSH_SECONDS = 30.0


class JumpSocket:
    """One end of a pair of sockets, whose other end ``ssh -W`` has; it ends with it."""

    def __init__(self, command: list[str]) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._socket, other = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=other.fileno(),
                stdout=other.fileno(),
                stderr=self._errors,
                # Ctrl-C is for the client, which closes this in good order.
                start_new_session=True,
            )
        except BaseException:
            self._socket.close()
            self._errors.close()
            raise
        finally:
            other.close()

    def wait_for_first_byte(self, seconds: float) -> None:
        """Wait until the other side says something.

        Raises:
            OSError: There is no way there; the message is what ssh said last.
        """
        ready, _, _ = select.select([self._socket], [], [], seconds)
        if ready and self._socket.recv(1, socket.MSG_PEEK):
            return
        said = self._said_last() if ready else f"no answer within {seconds:g} s"
        self.close()
        raise OSError(said or "ssh ended without a word")

    def _said_last(self) -> str:
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed the connection"
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    # What paramiko asks of a socket:

    def send(self, data: bytes) -> int:
        """Send; returns how many bytes went."""
        return self._socket.send(data)

    def recv(self, size: int) -> bytes:
        """Receive; nothing at the end."""
        return self._socket.recv(size)

    def settimeout(self, seconds: float | None) -> None:
        """Set how long sending and receiving may take."""
        self._socket.settimeout(seconds)

    def close(self) -> None:
        """Close it, and end ssh. Closing twice does nothing."""
        self._socket.close()
        self._errors.close()
        # Its input is at an end, so it goes by itself; one that hangs does not.
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def connect_through(host: HostAddress, address: str, port: int, timeout: float) -> JumpSocket:
    """Connect to an address as the hypervisor sees it.

    Args:
        host: The hypervisor.
        address: An IP address.
        port: The port, of something that speaks first.
        timeout: Seconds until the hypervisor must have connected.

    Raises:
        OSError: There is no way there, or no program ``ssh`` here.
    """
    target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_SSH_SECONDS:.0f}"]
    if host.ssh_port is not None:
        command += ["-p", str(host.ssh_port)]
    if host.ssh_user:
        command += ["-l", host.ssh_user]
    if host.ssh_keyfile:
        command += ["-i", host.ssh_keyfile]
    if not host.ssh_verify:
        # As libvirt does for the URI's no_verify: it was asked for in so many words.
        command += ["-o", "StrictHostKeyChecking=no"]
    made = JumpSocket([*command, "-W", target, "--", host.ssh_host])
    made.wait_for_first_byte(_SSH_SECONDS + timeout)
    return made
