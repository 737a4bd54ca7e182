"""A real proxy on loopback that makes tunnels for HTTPS, and lets nothing else through."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy(ThreadingHTTPServer):
    """The proxy.

    Attributes:
        target: The port on loopback that every tunnel leads to, whatever name was asked for.
        user: What is needed, as ``name:password`` in base 64; empty for nothing.
        tunnels: The ``HOST:PORT`` of each tunnel that was asked for.
        refused: How many were asked for without what is needed.
        spoken: The first bytes that went through each.
    """

    daemon_threads = True

    def __init__(self, target: int, user: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.user = user
        self.tunnels: list[str] = []
        self.refused = 0
        self.spoken: list[bytes] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.send_error(405)

    def do_CONNECT(self) -> None:
        self.close_connection = True
        given = self.headers.get("Proxy-Authorization", "")
        if self.server.user and given != f"Basic {self.server.user}":
            self.server.refused += 1
            self.send_error(407)
            return
        self.server.tunnels.append(self.path)
        with socket.create_connection(("127.0.0.1", self.server.target)) as there:
            self.send_response(200, "Connection established")
            self.end_headers()
            with suppress(OSError):
                self._join(there)

    def _join(self, there: socket.socket) -> None:
        here, first = self.connection, True
        while True:
            for ready in select.select([here, there], [], [])[0]:
                piece = ready.recv(65536)
                if not piece:
                    return
                if first:
                    self.server.spoken.append(piece[:3])
                    first = False
                (there if ready is here else here).sendall(piece)


@contextmanager
def proxying(target: int, user: str = "") -> Iterator[Proxy]:
    """Run a proxy for as long as the block."""
    with Proxy(target, user) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
