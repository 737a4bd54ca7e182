"""A port of this machine that leads to an address as the hypervisor sees it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from vmctl.errors import ConflictError
from vmctl.guest.reach import Reach

__all__ = ["Relay"]

_CHUNK = 65536
_CONNECT_SECONDS = 10.0


class Relay:
    """Listens on this machine's loopback until it is closed; use it in a ``with`` block.

    Args:
        reach: How the hypervisor is reached.
        address: The address there.
        port: The port there.
        local_port: The port here; 0 for one that is free.

    Raises:
        ConflictError: Something else listens on that port.
    """

    def __init__(self, reach: Reach, address: str, port: int, *, local_port: int = 0) -> None:
        self._reach = reach
        self._target = (address, port)
        self._lock = threading.Lock()
        self._open: set[Any] = set()
        self._closed = False
        try:
            self._listener = socket.create_server(("127.0.0.1", local_port))
        except OSError as error:
            raise ConflictError(
                f"can't listen on the port {local_port} of 127.0.0.1",
                details=error.strerror or "",
                hint="choose another one, or 0 for one that is free",
            ) from error
        self.port: int = self._listener.getsockname()[1]
        """The port here."""
        self._thread = threading.Thread(target=self._accept, name="vmctl-relay", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and cut what is connected. Closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            ends = list(self._open)
        # Closing alone does not wake a thread that waits in accept or recv.
        for end in (self._listener, *ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(
                target=self._join, args=(client,), name="vmctl-relay", daemon=True
            ).start()

    def _join(self, client: socket.socket) -> None:
        """Copy in both directions until one of them ends."""
        with client:
            try:
                server = self._reach.open(*self._target, timeout=_CONNECT_SECONDS)
            except OSError:
                # The client sees it: its connection ends without a word.
                return
            with server:
                with self._lock:
                    if self._closed:
                        return
                    self._open |= {client, server}
                back = threading.Thread(
                    target=_copy, args=(server, client), name="vmctl-relay", daemon=True
                )
                back.start()
                _copy(client, server)
                back.join()
                with self._lock:
                    self._open -= {client, server}


def _copy(source: Any, sink: Any) -> None:
    with suppress(OSError):
        while piece := source.recv(_CHUNK):
            sink.sendall(piece)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
