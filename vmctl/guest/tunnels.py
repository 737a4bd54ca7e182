"""Ports of this machine that lead into a guest, over the kept SSH connection."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import paramiko

from vmctl.errors import ConflictError, UsageError, VmctlError
from vmctl.guest.link import Link

__all__ = ["forwarded"]

_CHUNK = 65536
_BACKLOG = 64


@contextmanager
def forwarded(
    link: Link,
    *,
    guest_host: str,
    guest_port: int,
    address: str,
    local_port: int,
    on_refusal: Callable[[VmctlError], None] | None,
) -> Iterator[int]:
    """Listen on a port while the block runs, and pass every connection on; see `VM.forward`."""
    # A port that leads nowhere shall be known at once, and not by whoever connects.
    link.session()
    listener = _listen(address, local_port)
    tunnel = _Tunnel(link, listener, (guest_host, guest_port), on_refusal)
    try:
        yield int(listener.getsockname()[1])
    finally:
        tunnel.close()


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConflictError(
                f"the port {port} of {address} is in use",
                hint="choose another one, or 0 for one that is free",
            ) from error
        raise UsageError(
            f"can't listen on port {port} of {address}",
            details=str(error),
            hint="give an address of this machine, and a port above 1023",
        ) from error
    return listener


class _Tunnel:
    """Takes connections in one thread, and has two for each that is open; `close` ends them all."""

    def __init__(
        self,
        link: Link,
        listener: socket.socket,
        target: tuple[str, int],
        on_refusal: Callable[[VmctlError], None] | None,
    ) -> None:
        self._link = link
        self._listener = listener
        self._target = target
        self._on_refusal = on_refusal
        self._lock = threading.Lock()
        self._closing = False
        self._open: set[socket.socket | paramiko.Channel] = set()
        self._threads: set[threading.Thread] = set()
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *words: object) -> threading.Thread:
        def run_and_forget() -> None:
            try:
                run(*words)
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run_and_forget, name="vmctl-forward", daemon=True)
        with self._lock:
            self._threads.add(thread)
            # Within the lock: `close` can't wait for a thread that has not begun.
            thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                # `close` shut it down.
                return
            if not self._keep(client):
                return
            self._start(self._serve, client)

    def _keep(self, end: socket.socket | paramiko.Channel) -> bool:
        """Remember what `close` has to close; when that is over already, close it now."""
        with self._lock:
            if not self._closing:
                self._open.add(end)
                return True
        end.close()
        return False

    def _serve(self, client: socket.socket) -> None:
        channel = None
        try:
            channel = self._link.channel_to(*self._target)
            if not self._keep(channel):
                return
            back = self._start(_pump, channel.recv, client.sendall, _ender(client, channel))
            _pump(client.recv, channel.sendall, channel.shutdown_write)
            back.join()
        except VmctlError as error:
            if self._on_refusal is not None:
                self._on_refusal(error)
        finally:
            for end in (client, channel):
                if end is not None:
                    end.close()
                    with self._lock:
                        self._open.discard(end)

    def close(self) -> None:
        """Close the port and all connections, and wait until their threads have ended."""
        with self._lock:
            self._closing = True
            ends = list(self._open)
        # It wakes the thread that waits in accept().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for end in ends:
            with suppress(OSError):
                if isinstance(end, socket.socket):
                    end.shutdown(socket.SHUT_RDWR)
                else:
                    end.close()
        self._listener.close()
        while True:
            with self._lock:
                thread = next(iter(self._threads), None)
            if thread is None:
                return
            thread.join()


def _ender(client: socket.socket, channel: paramiko.Channel) -> Callable[[], None]:
    # A guest that has ended what it says may still listen; one that is gone does not.
    return lambda: client.shutdown(socket.SHUT_RDWR if channel.closed else socket.SHUT_WR)


def _pump(
    receive: Callable[[int], bytes], send: Callable[[bytes], None], end: Callable[[], None]
) -> None:
    # An end that is closed, by whomever, is the end; what has come before it was passed on.
    with suppress(OSError, EOFError, paramiko.SSHException):
        while piece := receive(_CHUNK):
            send(piece)
    with suppress(OSError, EOFError, paramiko.SSHException):
        end()
