"""This process's own terminal, and its stdin and stdout where they are none."""

from __future__ import annotations

import errno
import os
import select
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from vmctl.errors import VmctlError
from vmctl.hypervisor.consoles import ConsoleStream

__all__ = ["Waker", "interact", "pass_through", "raw_mode", "write_all"]

_CHUNK = 4096
# How long a guest that reads nothing is given before what is typed is thrown away.
_SEND_SECONDS = 60.0
# How often a connection that breaks without a word is looked at.
_RECHECK_SECONDS = 1.0
_BELL = b"\a"


@contextmanager
def raw_mode(terminal: int) -> Iterator[None]:
    """Put a terminal into raw mode while the block runs; it is put back whatever happens."""
    before = termios.tcgetattr(terminal)
    try:
        # What was typed ahead is kept.
        tty.setraw(terminal, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Waker:
    """A descriptor that can be read from after `wake` was called, by whatever thread."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._lock = threading.Lock()
        self._closed = False
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reader

    def wake(self) -> None:
        """Make it readable."""
        with self._lock, suppress(BlockingIOError):
            if not self._closed:
                os.write(self._writer, b"!")

    def clear(self) -> None:
        """Make it unreadable again."""
        with suppress(BlockingIOError):
            os.read(self._reader, _CHUNK)

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._closed = True
            os.close(self._reader)
            os.close(self._writer)


def interact(
    console: ConsoleStream,
    waker: Waker,
    *,
    keyboard: int,
    screen: int,
    escape: bytes,
    size_key: bytes = b"",
    announce: Callable[[], None],
) -> VmctlError | None:
    """Join a console to a terminal until the escape key is typed or nothing more comes.

    What the guest writes reaches the terminal as it is, as from any serial line.

    Args:
        console: The console, which wakes the waker.
        waker: That waker.
        keyboard: The terminal's descriptor for reading; it is in raw mode meanwhile.
        screen: The one for writing.
        escape: The key that leaves; empty for none.
        size_key: The key for which a command is typed that tells a Unix shell the terminal's size;
            empty for none.
        announce: Called when what is typed reaches the guest from now on.

    Returns:
        Why nothing more comes; None after the escape key.
    """
    with raw_mode(keyboard):
        announce()
        typing = True
        while True:
            over = console.ended
            _copy(console, screen)
            if over:
                return console.why_ended()
            watched: list[int] = [waker.fileno(), *([keyboard] if typing else [])]
            ready, _, _ = select.select(watched, [], [], _RECHECK_SECONDS)
            waker.clear()
            if keyboard not in ready:
                continue
            typed = os.read(keyboard, _CHUNK)
            typing = bool(typed)
            before, found, _after = typed.partition(escape) if escape else (typed, b"", b"")
            if size_key and size_key in before:
                before = before.replace(size_key, _size_command(screen))
            if before and not console.post(before):
                write_all(screen, _BELL)
            if found:
                return None


def _size_command(terminal: int) -> bytes:
    """Return what is typed in a shell: a serial line has no other way to say how large it is."""
    columns, lines = os.get_terminal_size(terminal)
    return f"stty rows {lines} cols {columns}\r".encode()


def _copy(console: ConsoleStream, screen: int) -> int:
    piece, lost = console.take()
    write_all(screen, piece)
    return lost


def pass_through(
    console: ConsoleStream, waker: Waker, *, source: int | None, sink: int
) -> tuple[VmctlError, int]:
    """Join a console to a pipe in either direction until nothing more comes.

    Args:
        console: The console, which wakes the waker.
        waker: That waker.
        source: The descriptor that is read and sent; None for nothing.
        sink: The one that is written to.

    Returns:
        Why nothing more comes, and how many bytes were lost since they were not read in time.

    Raises:
        BrokenPipeError: Nobody reads what is written.
        WaitTimeoutError: The guest does not read what it is sent.
    """
    failed: list[BaseException] = []
    if source is not None:
        threading.Thread(
            target=_feed, args=(console, source, failed, waker), daemon=True, name="vmctl-feed"
        ).start()
    lost = 0
    while True:
        over = console.ended
        lost += _copy(console, sink)
        if over:
            return console.why_ended(), lost
        if failed:
            raise failed[0]
        _wait_for(waker, sink)


def _wait_for(waker: Waker, sink: int) -> None:
    """Wait until something came.

    Raises:
        BrokenPipeError: Nobody reads what is written; a guest that is silent would hide it.
    """
    poll = select.poll()
    poll.register(waker.fileno(), select.POLLIN)
    # Without a mask, poll(2) tells of errors alone.
    poll.register(sink, 0)
    for descriptor, event in poll.poll(_RECHECK_SECONDS * 1000):
        if descriptor == sink and event & (select.POLLERR | select.POLLHUP):
            raise BrokenPipeError(errno.EPIPE, "nobody reads what is written")
    waker.clear()


def _feed(console: ConsoleStream, source: int, failed: list[BaseException], waker: Waker) -> None:
    try:
        while piece := os.read(source, _CHUNK):
            console.send(piece, timeout=_SEND_SECONDS)
    except (VmctlError, OSError) as error:
        failed.append(error)
        waker.wake()
