"""A real HTTP server on loopback that misbehaves on demand."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What a path leads to, and how the server misbehaves there.

    Attributes:
        body: The file.
        etag: Sent, and compared, unless it is empty.
        ranges: Whether a range is honoured.
        status: Another status than 200, with no body.
        statuses: Statuses of the next answers, each used once.
        location: Where the path is redirected to.
        cut: How many bytes of the body each answer has before the connection ends; one number is
            used up by each answer.
        stall: After how many bytes the server says nothing more, until it is told to go on.
        length: The Content-Length that is sent in place of the true one.
        chunked: Whether the body is sent in chunks.
        unframed: Whether neither its length nor its end is said.
        shift: How many bytes further than asked for a range begins.
        user: The name and the password that are needed, as ``name:password`` in base 64.
    """

    body: bytes = b""
    etag: str = '"one"'
    ranges: bool = True
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    location: str = ""
    cut: list[int] = field(default_factory=list)
    stall: int | None = None
    length: int | None = None
    chunked: bool = False
    unframed: bool = False
    shift: int = 0
    user: str = ""
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


class Server(ThreadingHTTPServer):
    """The server. ``pages`` may be changed at any time; ``requests`` and ``sent`` tell the tale."""

    daemon_threads = True
    address_family = socket.AF_INET

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            # The handshake is the handler's: one that fails must not keep others waiting.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent: dict[str, int] = {}

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.server_port}{path}"

    def page(self, path: str, body: bytes = b"", **how: object) -> Page:
        self.pages[path] = Page(body, **how)  # type: ignore[arg-type]
        return self.pages[path]

    def asked(self, path: str) -> list[dict[str, str]]:
        return [headers for there, headers in self.requests if there == path]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what half of the tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers))
        page = self.server.pages.get(self.path, Page(status=404))
        status = page.statuses.pop(0) if page.statuses else page.status
        if page.user and headers.get("authorization") != f"Basic {page.user}":
            status = 401
        if page.location or status != 200:
            self._bare(302 if page.location else status, page.location)
        elif page.etag and headers.get("if-none-match") == page.etag:
            self._bare(304, etag=page.etag)
        else:
            self._file(page, headers)

    def _bare(self, status: int, location: str = "", etag: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        if etag:
            self.send_header("ETag", etag)
        if status != 304:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, page: Page, headers: dict[str, str]) -> None:
        body, start = page.body, 0
        asked = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        same = headers.get("if-range", page.etag) == page.etag
        if asked and page.ranges and same:
            start = int(asked[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start += page.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if page.etag:
            self.send_header("ETag", page.etag)
        self._body(page, body[start:])

    def _body(self, page: Page, body: bytes) -> None:
        if page.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif not page.unframed:
            self.send_header("Content-Length", str(page.length or len(body)))
        self.end_headers()
        end = page.cut.pop(0) if page.cut else len(body)
        for begin in range(0, min(end, len(body)), 4096):
            if page.stall is not None and begin >= page.stall:
                self.wfile.flush()
                page.stalled.set()
                page.go_on.wait(60)
            piece = body[begin : min(begin + 4096, end)]
            with suppress(OSError):
                self._send(page, piece)
        if page.chunked and end >= len(body):
            self.wfile.write(b"0\r\n\r\n")
        if end < len(body) or page.unframed or page.length:
            self.close_connection = True

    def _send(self, page: Page, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if page.chunked else piece)
        self.server.sent[self.path] = self.server.sent.get(self.path, 0) + len(piece)


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server for as long as the block; given a context, over TLS."""
    with Server(tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            for page in server.pages.values():
                page.go_on.set()
            server.shutdown()
            thread.join()
