"""A command in a channel: what it reads goes in, what it writes comes out, side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, BinaryIO

import paramiko

from vmctl.errors import GuestUnreachableError

__all__ = ["HINT_LOST", "CallersError", "begin", "converse", "status_of"]

# Under emulation the start of a shell takes seconds.
_BEGIN_SECONDS = 60.0
_CHUNK = 65536
HINT_LOST = "the guest, or its sshd, went down: `vmctl wait` waits until it is back"


class CallersError(Exception):
    """What a callback or a file of the caller's raised, apart from what the connection raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


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
            started.result(_BEGIN_SECONDS if deadline is None else _left(deadline))
        except BaseException as error:
            channel.close()
            if deadline is None and isinstance(error, TimeoutError):
                raise GuestUnreachableError(
                    "the guest does not answer on its SSH connection any more", hint=HINT_LOST
                ) from error
            raise


def converse(
    channel: paramiko.Channel,
    stdin: bytes | BinaryIO,
    deadline: float | None,
    on_stdout: Callable[[bytes], None] | None,
    on_stderr: Callable[[bytes], None] | None,
    *,
    preamble: bytes = b"",
) -> tuple[bytes, bytes]:
    """Write stdin and read both outputs side by side, so that no side waits for the other.

    Args:
        channel: One in which a command runs.
        stdin: What it reads; a file is read while the command runs, and no further than that.
        deadline: A time of `time.monotonic`; None for no limit.
        on_stdout: Called with each piece of its output as it comes.
        on_stderr: The same for its errors.
        preamble: What it reads first.

    Returns:
        Both outputs.

    Raises:
        TimeoutError: The deadline came first.
        CallersError: A callback or the file failed.
    """
    feeder = None
    if not isinstance(stdin, bytes):
        feeder, stdin = _Feeder(channel, stdin, preamble), b""
    with ThreadPoolExecutor(3, thread_name_prefix="vmctl-ssh") as threads:
        try:
            out = threads.submit(_read, channel.recv, on_stdout)
            err = threads.submit(_read, channel.recv_stderr, on_stderr)
            jobs: list[Future[Any]] = [out, err]
            if feeder is None:
                jobs.append(threads.submit(_write, channel, preamble + stdin))
            left = None if deadline is None else _left(deadline)
            # One that failed (a callback of the caller's may) keeps the others waiting for ever.
            ended, unfinished = wait(jobs, left, return_when=FIRST_EXCEPTION)
            for job in ended:
                job.result()
            if unfinished:
                raise TimeoutError
            if feeder is not None and feeder.failure is not None:
                raise feeder.failure
            return out.result(), err.result()
        except BaseException:
            # Ends the threads, for which leaving the block waits.
            channel.close()
            raise


class _Feeder:
    """Writes a file into a channel, in a thread that nobody waits for.

    It may be stuck in a read of something that never ends, when the command has ended long since.
    """

    def __init__(self, channel: paramiko.Channel, stdin: BinaryIO, preamble: bytes) -> None:
        self.failure: CallersError | None = None
        self._channel = channel
        self._stdin = stdin
        self._preamble = preamble
        threading.Thread(target=self._feed, name="vmctl-stdin", daemon=True).start()

    def _feed(self) -> None:
        # A command that ends without reading its input is no failure.
        with suppress(OSError, EOFError, paramiko.SSHException):
            if self._preamble:
                self._channel.sendall(self._preamble)
            while piece := self._next():
                self._channel.sendall(piece)
            if self.failure is None:
                self._channel.shutdown_write()
            else:
                self._channel.close()

    def _next(self) -> bytes:
        # What is there at once, of a pipe; a plain read would wait until a chunk is full.
        read: Callable[[int], bytes] = getattr(self._stdin, "read1", self._stdin.read)
        try:
            return read(_CHUNK)
        except Exception as error:  # noqa: BLE001 - it is raised again, in the caller's thread
            self.failure = CallersError(error)
            return b""


def _write(channel: paramiko.Channel, stdin: bytes) -> None:
    # A command that ends without reading its input is no failure.
    with suppress(OSError):
        if stdin:
            channel.sendall(stdin)
        channel.shutdown_write()


def _read(receive: Callable[[int], bytes], tell: Callable[[bytes], None] | None) -> bytes:
    read = bytearray()
    while piece := receive(_CHUNK):
        read += piece
        if tell is not None:
            try:
                tell(piece)
            except Exception as error:
                raise CallersError(error) from error
    return bytes(read)


def status_of(channel: paramiko.Channel, deadline: float | None) -> int:
    """Return the exit status; negative when the channel closed without one.

    Raises:
        TimeoutError: The deadline came first.
    """
    if not channel.status_event.wait(None if deadline is None else _left(deadline)):
        raise TimeoutError
    return channel.recv_exit_status()


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
