"""SSH with the host key that vmctl made: one connection, kept, opened again when it is lost."""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

import paramiko

from vmctl.errors import (
    GuestUnreachableError,
    HostKeyMismatchError,
    UsageError,
    WaitTimeoutError,
)
from vmctl.guest.command import CompletedCommand, shell_line
from vmctl.guest.identity import KeyPair

__all__ = ["HINT_LOST", "SSHSession", "begin", "connect"]

# Under emulation a handshake alone takes seconds.
_HANDSHAKE_SECONDS = 60.0
# What went wrong arrives as an exception; without a handler Python would print it as well.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
_KEEPALIVE_SECONDS = 15
HINT_LOST = "the guest, or its sshd, went down: `vmctl wait` waits until it is back"


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
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise GuestUnreachableError(
                f"the SSH connection to '{self._machine}' is lost", hint=HINT_LOST
            )
        try:
            return transport.open_session(timeout=_HANDSHAKE_SECONDS)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise GuestUnreachableError(
                f"the SSH connection to '{self._machine}' is lost",
                details=str(error),
                hint=HINT_LOST,
            ) from error

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> CompletedCommand:
        """Run a command to its end.

        Args:
            command: Words, or a line for the shell.
            stdin: What it reads.
            timeout: Seconds; None waits for ever.
            on_stdout: Called with each piece of its output as it comes.
            on_stderr: The same for its errors.

        Raises:
            GuestUnreachableError: The connection broke before the status was there.
            WaitTimeoutError: The command did not end in time; its channel is closed.
        """
        line = shell_line(command)
        if not line:
            raise UsageError(
                "there is no command to run",
                hint="give the command as a line or as a list of words",
            )
        deadline = None if timeout is None else time.monotonic() + timeout
        channel = self.open_channel()
        try:
            begin(channel, line, deadline)
            out, err = _converse(channel, stdin, deadline, on_stdout, on_stderr)
            status = _status(channel, deadline)
        except _CallbackError as failure:
            raise failure.error from None
        except TimeoutError as error:
            raise WaitTimeoutError(
                f"the command {line!r} in '{self._machine}' did not end within {timeout:g} s",
                phase="command",
                hint="give it more time, or look at what it waits for",
            ) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise GuestUnreachableError(
                f"the SSH connection to '{self._machine}' broke", details=str(error), hint=HINT_LOST
            ) from error
        finally:
            channel.close()
        if status < 0:
            # Paramiko's answer when the channel closed without a status.
            raise GuestUnreachableError(
                f"the SSH connection to '{self._machine}' broke", hint=HINT_LOST
            )
        return CompletedCommand(
            command=line,
            exit_status=status,
            stdout=out.decode("utf-8", "replace"),
            stderr=err.decode("utf-8", "replace"),
            via="ssh",
        )

    def close(self) -> None:
        """Close it."""
        self._client.close()


def begin(channel: paramiko.Channel, command: str | None, deadline: float | None) -> None:
    """Start a command, or the user's shell, in a channel.

    Raises:
        TimeoutError: The deadline came first.
        GuestUnreachableError: There is no deadline, and the guest does not answer.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="vmctl-ssh") as threads:
        if command is None:
            started = threads.submit(channel.invoke_shell)
        else:
            started = threads.submit(channel.exec_command, command)
        try:
            # Paramiko itself waits without an end.
            started.result(_HANDSHAKE_SECONDS if deadline is None else _left(deadline))
        except BaseException as error:
            channel.close()
            if deadline is None and isinstance(error, TimeoutError):
                raise GuestUnreachableError(
                    "the guest does not answer on its SSH connection any more", hint=HINT_LOST
                ) from error
            raise


def _converse(
    channel: paramiko.Channel,
    stdin: bytes,
    deadline: float | None,
    on_stdout: Callable[[bytes], None] | None,
    on_stderr: Callable[[bytes], None] | None,
) -> tuple[bytes, bytes]:
    """Write stdin and read both outputs side by side, so that no side waits for the other."""
    with ThreadPoolExecutor(3, thread_name_prefix="vmctl-ssh") as threads:
        try:
            out = threads.submit(_read, channel.recv, on_stdout)
            err = threads.submit(_read, channel.recv_stderr, on_stderr)
            into = threads.submit(_write, channel, stdin)
            jobs: list[Future[Any]] = [into, out, err]
            left = None if deadline is None else _left(deadline)
            # One that failed (a callback of the caller's may) keeps the others waiting for ever.
            ended, unfinished = wait(jobs, left, return_when=FIRST_EXCEPTION)
            for job in ended:
                job.result()
            if unfinished:
                raise TimeoutError
            return out.result(), err.result()
        except BaseException:
            # Ends the threads, for which leaving the block waits.
            channel.close()
            raise


def _write(channel: paramiko.Channel, stdin: bytes) -> None:
    # A command that ends without reading its input is no failure.
    with suppress(OSError):
        if stdin:
            channel.sendall(stdin)
        channel.shutdown_write()


def _read(receive: Callable[[int], bytes], tell: Callable[[bytes], None] | None) -> bytes:
    read = bytearray()
    while piece := receive(65536):
        read += piece
        if tell is not None:
            try:
                tell(piece)
            except Exception as error:
                raise _CallbackError(error) from error
    return bytes(read)


class _CallbackError(Exception):
    """What a callback of the caller's raised, kept apart from what the connection raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _status(channel: paramiko.Channel, deadline: float | None) -> int:
    if not channel.status_event.wait(None if deadline is None else _left(deadline)):
        raise TimeoutError
    return channel.recv_exit_status()
