"""SSH with the host key that vmctl made: one connection, kept, opened again when it is lost."""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

import paramiko

from vmctl.errors import (
    ConflictError,
    GuestUnreachableError,
    HostKeyMismatchError,
    WaitTimeoutError,
)
from vmctl.guest.command import CompletedCommand, shell_line
from vmctl.guest.conversation import HINT_LOST, CallersError, begin, converse, status_of
from vmctl.guest.identity import KeyPair
from vmctl.guest.signals import hearing_transport

__all__ = ["SSHSession", "connect", "run_in"]

# Under emulation a handshake alone takes seconds.
_HANDSHAKE_SECONDS = 60.0
# What went wrong arrives as an exception; without a handler Python would print it as well.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
_KEEPALIVE_SECONDS = 15
# A guest that answers at all opens a channel at once.
_OPEN_SECONDS = 15.0


def connect(
    sock: Any,
    *,
    machine: str,
    user: str,
    host_key: str,
    key: KeyPair,
    banner_timeout: float = _HANDSHAKE_SECONDS,
) -> SSHSession:
    """Log in over a connected socket; the socket is closed when that fails.

    Args:
        sock: As `Reach.open` returns it.
        machine: The machine's name, for messages.
        user: The user in the guest.
        host_key: The guest's public host key, ``ssh-ed25519 AAAA...``: no other is accepted.
        key: The client's key.
        banner_timeout: Seconds until the other side must have said that it speaks SSH.

    Raises:
        HostKeyMismatchError: Somebody else answers.
        GuestUnreachableError: Nobody speaks SSH there, or the key is refused.
    """
    kind, encoded, *_comment = host_key.split()
    client = paramiko.SSHClient()
    client.get_host_keys().add(machine, kind, paramiko.Ed25519Key(data=base64.b64decode(encoded)))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.connect(
            machine,
            username=user,
            pkey=_private_key(key.private),
            sock=sock,
            banner_timeout=banner_timeout,
            auth_timeout=_HANDSHAKE_SECONDS,
            timeout=_HANDSHAKE_SECONDS,
            allow_agent=False,
            look_for_keys=False,
            transport_factory=hearing_transport,
        )
    except BaseException as error:
        client.close()
        with suppress(OSError):
            sock.close()
        if not isinstance(error, paramiko.SSHException | OSError | EOFError):
            raise
        raise _refusal(error, machine, user) from error
    transport = client.get_transport()
    if transport is None:
        raise GuestUnreachableError(
            f"the SSH connection to '{machine}' was closed at once",
            hint="try again; `vmctl logs` shows whether the guest is restarting",
        )
    transport.set_keepalive(_KEEPALIVE_SECONDS)
    return SSHSession(client, machine)


def _private_key(text: str) -> paramiko.PKey:
    """Read a private key of any kind; vmctl makes Ed25519 ones, users bring their own."""
    last: paramiko.SSHException | None = None
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text))
        except paramiko.SSHException as error:
            last = error
    raise last or paramiko.SSHException("no private key")


def _refusal(error: BaseException, machine: str, user: str) -> Exception:
    if isinstance(error, paramiko.BadHostKeyException):
        return HostKeyMismatchError(
            f"whoever answers as '{machine}' has not the host key of '{machine}'",
            details=f"expected {error.expected_key.get_base64()}\n"
            f"got      {error.key.get_base64()}",
            hint="another machine may have taken its address, or its host key was replaced "
            "from inside; nothing was sent to it",
        )
    if isinstance(error, paramiko.AuthenticationException):
        return GuestUnreachableError(
            f"'{machine}' refuses the SSH key for the user '{user}'",
            details=str(error),
            hint="the machine was made with another client's key, or the user changed its own",
        )
    return GuestUnreachableError(
        f"no SSH with '{machine}'",
        details=str(error),
        hint="something answers there that is not an SSH server, or not ready yet: `vmctl wait`",
    )


class SSHSession:
    """A logged-in connection. Thread-safe: commands run side by side, each in its own channel."""

    def __init__(self, client: paramiko.SSHClient, machine: str) -> None:
        self._client = client
        self._machine = machine

    @property
    def alive(self) -> bool:
        """Whether it can still be used, as far as this side knows."""
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    def open_channel(self) -> paramiko.Channel:
        """Return a new session channel.

        Raises:
            GuestUnreachableError: The connection is lost.
        """
        try:
            return self._transport().open_session(timeout=_OPEN_SECONDS)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(str(error)) from error

    def open_channel_to(self, address: str, port: int) -> paramiko.Channel:
        """Return a channel to a port that the guest can reach.

        Args:
            address: A name or an IP address, as the guest knows it.
            port: The port there.

        Raises:
            ConflictError: Nothing listens there, or the guest's sshd forbids it.
            GuestUnreachableError: The connection is lost.
        """
        try:
            return self._transport().open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=_OPEN_SECONDS
            )
        except paramiko.ChannelException as error:
            raise ConflictError(
                f"no connection from '{self._machine}' to {address} port {port}",
                details=error.text,
                hint="does something listen there in the guest? and sshd may forbid it: "
                "AllowTcpForwarding",
            ) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(str(error)) from error

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise self._lost("")
        return transport

    def _lost(self, details: str) -> GuestUnreachableError:
        return GuestUnreachableError(
            f"the SSH connection to '{self._machine}' is lost", details=details, hint=HINT_LOST
        )

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
    ) -> CompletedCommand:
        """Run a command to its end.

        Args:
            command: Words, or a line for the shell.
            stdin: What it reads.
            timeout: Seconds; None waits for ever.

        Raises:
            GuestUnreachableError: The connection broke before the status was there.
            WaitTimeoutError: The command did not end in time; its channel is closed.
        """
        line = shell_line(command)
        return run_in(
            self.open_channel(), line, machine=self._machine, stdin=stdin, timeout=timeout
        )

    def close(self) -> None:
        """Close it."""
        self._client.close()


def run_in(
    channel: paramiko.Channel,
    line: str,
    *,
    machine: str,
    named: str = "",
    stdin: bytes | BinaryIO = b"",
    preamble: bytes = b"",
    timeout: float | None = None,
    on_stdout: Callable[[bytes], None] | None = None,
    on_stderr: Callable[[bytes], None] | None = None,
) -> CompletedCommand:
    """Run a command in a new channel to its end; the channel is closed then.

    Args:
        channel: The channel.
        line: A line for the guest's shell.
        machine: The machine's name, for messages.
        named: What the line is called in messages and in the result; empty: itself.
        stdin: What it reads; a file is read while it runs.
        preamble: What it reads before that.
        timeout: Seconds; None waits for ever.
        on_stdout: Called with each piece of its output as it comes.
        on_stderr: The same for its errors.

    Raises:
        GuestUnreachableError: The connection broke before the status was there.
        WaitTimeoutError: The command did not end in time.
    """
    named = named or line
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        begin(channel, line, deadline)
        out, err = converse(channel, stdin, deadline, on_stdout, on_stderr, preamble=preamble)
        status = status_of(channel, deadline)
    except CallersError as failure:
        raise failure.error from None
    except TimeoutError as error:
        raise WaitTimeoutError(
            f"the command {named!r} in '{machine}' did not end within {timeout:g} s",
            phase="command",
            hint="it may run on in the guest; give it more time, or look at what it waits for",
        ) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise GuestUnreachableError(
            f"the SSH connection to '{machine}' broke", details=str(error), hint=HINT_LOST
        ) from error
    finally:
        channel.close()
    if status < 0:
        # Paramiko's answer when the channel closed without a status.
        raise GuestUnreachableError(f"the SSH connection to '{machine}' broke", hint=HINT_LOST)
    return CompletedCommand(
        command=named,
        exit_status=status,
        stdout=out.decode("utf-8", "replace"),
        stderr=err.decode("utf-8", "replace"),
        via="ssh",
    )
