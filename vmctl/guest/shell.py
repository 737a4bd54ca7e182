"""A channel to a guest, joined to this process's own stdin, stdout and stderr."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any, BinaryIO, TextIO

import paramiko

from vmctl.errors import GuestUnreachableError, WaitTimeoutError
from vmctl.guest.conversation import HINT_LOST, begin
from vmctl.guest.terminal import raw_mode, write_all

__all__ = ["interact", "pass_through"]

_CHUNK = 65536
# How long the window of a peer that takes nothing is looked at again.
_FULL_SECONDS = 0.05


class Escapes:
    """Finds ``~.`` at the beginning of a line, by which a person leaves a connection that hangs.

    As in ssh(1): ``~~`` is one ``~``, and any other character after ``~`` is sent with it.
    """

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = False

    def feed(self, typed: bytes) -> bytes | None:
        """Return what is to be sent of what was typed; None to leave."""
        out = bytearray()
        for number in typed:
            key = bytes((number,))
            if self._held:
                self._held = False
                if key == b".":
                    return None
                out += b"~" if key == b"~" else b"~" + key
            elif self._at_line_start and key == b"~":
                self._held = True
                continue
            else:
                out += key
            self._at_line_start = key in b"\r\n"
        return bytes(out)


def interact(channel: paramiko.Channel, *, command: str | None = None) -> int:
    """Run a shell, or a command, on this process's terminal.

    The terminal is put into raw mode, and is put back whatever happens. Its size is passed on, now
    and whenever it changes.

    Args:
        channel: A new session channel; it is closed at the end.
        command: What to run; None for the user's shell.

    Returns:
        The exit status in the guest.

    Raises:
        GuestUnreachableError: The connection broke, or was left by ``~.``.
    """
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    try:
        with _speaking():
            columns, lines = os.get_terminal_size(screen)
            channel.get_pty(os.environ.get("TERM") or "xterm", columns, lines)
            begin(channel, command, None)
            with raw_mode(keyboard), _resized() as wake:
                _converse(channel, keyboard, screen, wake)
            return _status(channel)
    finally:
        channel.close()


@contextmanager
def _speaking() -> Iterator[None]:
    try:
        yield
    except (paramiko.SSHException, EOFError) as error:
        raise _broken(str(error)) from error


def _broken(details: str = "") -> GuestUnreachableError:
    return GuestUnreachableError(
        "the SSH connection to the guest broke", details=details, hint=HINT_LOST
    )


def _status(channel: paramiko.Channel) -> int:
    status = channel.recv_exit_status()
    # Paramiko's answer when the channel closed without a status.
    if status < 0:
        raise _broken()
    return status


@contextmanager
def _resized() -> Iterator[int]:
    """Give a descriptor that can be read from whenever the terminal's size changed."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def on_resize(_number: int, _frame: object) -> None:
        with suppress(BlockingIOError):
            os.write(writer, b"!")

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGWINCH, on_resize) if in_main else None
    try:
        yield reader
    finally:
        if in_main:
            signal.signal(signal.SIGWINCH, before)
        os.close(reader)
        os.close(writer)


def _converse(channel: paramiko.Channel, keyboard: int, screen: int, wake: int) -> None:
    escapes, unsent, typing = Escapes(), b"", True
    while True:
        if unsent and channel.send_ready():
            unsent = unsent[channel.send(unsent) :]
        watched: list[Any] = [channel, wake]
        if typing and not unsent:
            watched.append(keyboard)
        ready, _, _ = select.select(watched, [], [], _FULL_SECONDS if unsent else None)
        if wake in ready:
            os.read(wake, _CHUNK)
            channel.resize_pty(*os.get_terminal_size(screen))
        if channel in ready and not _copy_output(channel, screen):
            return
        if keyboard in ready:
            typed = os.read(keyboard, _CHUNK)
            if not typed:
                typing = False
                channel.shutdown_write()
                continue
            wanted = escapes.feed(typed)
            if wanted is None:
                write_all(screen, b"\r\n")
                raise GuestUnreachableError(
                    "the connection was left by ~.",
                    hint="the guest is left as it is; log in again: `vmctl ssh`",
                )
            unsent += wanted


def _copy_output(channel: paramiko.Channel, screen: int) -> bool:
    """Write what has come; returns whether more can come."""
    if channel.recv_stderr_ready():
        write_all(screen, channel.recv_stderr(_CHUNK))
    if not channel.recv_ready() and not (channel.eof_received or channel.closed):
        return True
    piece = channel.recv(_CHUNK)
    write_all(screen, piece)
    return bool(piece)


def pass_through(
    channel: paramiko.Channel,
    *,
    command: str | None,
    stdin: BinaryIO | None,
    timeout: float | None = None,
    preamble: bytes = b"",
) -> int:
    """Run a command, or a shell, with this process's stdin, stdout and stderr, byte for byte.

    Nothing is kept in memory, however much goes through.

    Args:
        channel: A new session channel; it is closed at the end.
        command: What to run; None for the user's shell.
        stdin: What it reads; None for nothing.
        timeout: Seconds that it has; None for no limit.
        preamble: What it reads first.

    Returns:
        The exit status in the guest.

    Raises:
        GuestUnreachableError: The connection broke.
        WaitTimeoutError: It did not end in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        with _speaking():
            begin(channel, command, deadline)
            _pump(channel, stdin, deadline, preamble)
            if not channel.status_event.wait(_left(deadline)):
                raise TimeoutError
            return _status(channel)
    except TimeoutError as error:
        raise WaitTimeoutError(
            f"the command {command!r} did not end within {timeout:g} s",
            phase="command",
            hint="it may run on in the guest; give it more time, or look at what it waits for",
        ) from error
    finally:
        channel.close()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _pump(
    channel: paramiko.Channel, stdin: BinaryIO | None, deadline: float | None, preamble: bytes
) -> None:
    """Copy in both directions until the guest has no more to say."""
    failed: list[BaseException] = []

    def copy(receive: Callable[[int], bytes], write: Callable[[bytes], None]) -> None:
        try:
            while piece := receive(_CHUNK):
                write(piece)
        except BaseException as error:  # noqa: BLE001 - it is raised again, in the caller's thread
            failed.append(error)
            channel.close()

    # Threads that nobody waits for at the end: one may be stuck in a read of stdin.
    given = BytesIO() if stdin is None else stdin
    threading.Thread(target=_feed, args=(channel, given, preamble), daemon=True).start()
    readers = [
        threading.Thread(target=copy, args=(channel.recv, _writer(sys.stdout)), daemon=True),
        threading.Thread(target=copy, args=(channel.recv_stderr, _writer(sys.stderr)), daemon=True),
    ]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join(_left(deadline))
        if thread.is_alive():
            raise TimeoutError
    if failed:
        raise failed[0]


def _feed(channel: paramiko.Channel, stdin: BinaryIO, preamble: bytes) -> None:
    read = _reader(stdin)
    # A command that ends without reading its input is no failure.
    with suppress(OSError, ValueError, EOFError, paramiko.SSHException):
        if preamble:
            channel.sendall(preamble)
        while piece := read(_CHUNK):
            channel.sendall(piece)
        channel.shutdown_write()


# Python's own streams have a lock, and a thread that holds it while the interpreter ends is fatal.
# So descriptors are read and written themselves, where there are any.


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None


def _reader(stream: BinaryIO) -> Callable[[int], bytes]:
    descriptor = _descriptor(stream)
    if descriptor is None:
        return stream.read
    return lambda size: os.read(descriptor, size)


def _writer(stream: TextIO) -> Callable[[bytes], None]:
    stream.flush()
    descriptor = _descriptor(stream)
    if descriptor is not None:
        return lambda data: write_all(descriptor, data)

    def write(data: bytes) -> None:
        stream.buffer.write(data)
        stream.flush()

    return write
