"""A bare connection to a guest's SSH server, for a client of another make that checks it itself."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import suppress
from typing import Any

from vmctl.errors import GuestUnreachableError
from vmctl.guest import addresses
from vmctl.guest.reach import Reach
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record

__all__ = ["connect", "join"]

_CONNECT_SECONDS = 5.0
_BANNER_SECONDS = 10.0
_CHUNK = 65536


def connect(domain: Domain, record: Record, *, reach: Reach, timeout: float) -> Any:
    """Return a connected socket on which an SSH server has begun to speak.

    Args:
        domain: A running machine.
        record: vmctl's record of it.
        reach: The way to its host.
        timeout: Seconds to try.

    Raises:
        GuestUnreachableError: Nobody speaks SSH there in that time.
    """
    said: dict[str, str] = {}

    def attempt() -> Any:
        sighting = addresses.look(domain, record.spec, reach=reach)
        if not sighting.endpoints:
            said["address"] = sighting.describe()
        for endpoint in sighting.endpoints:
            try:
                return _speaking(reach, endpoint)
            except OSError as error:
                said[str(endpoint)] = error.strerror or str(error) or type(error).__name__
        return None

    with domain.connection.events.listening(domain.uuid) as signal:
        made = signal.wait_for(attempt, deadline=time.monotonic() + timeout)
    if made is None:
        raise GuestUnreachableError(
            f"no SSH server answers in '{domain.name}'",
            details="\n".join(f"{where}: {answer}" for where, answer in said.items()),
            hint=f"is it up? `vmctl wait {domain.name}`, `vmctl logs {domain.name}`",
        )
    return made


def _speaking(reach: Reach, endpoint: addresses.Endpoint) -> Any:
    """Connect, and wait for the first byte: a forwarded port takes a connection before that."""
    made = reach.open(endpoint.address, endpoint.port, timeout=_CONNECT_SECONDS)
    try:
        made.settimeout(_BANNER_SECONDS)
        if not made.recv(1, socket.MSG_PEEK):
            raise OSError("it closed the connection at once")
        made.settimeout(None)
    except BaseException:
        made.close()
        raise
    return made


def join(sock: Any, source: int, sink: int) -> None:
    """Pass bytes on in both directions until the socket's other side has no more to say.

    Args:
        sock: A connected socket; it is closed at the end.
        source: The descriptor to read from; its end is passed on.
        sink: The descriptor to write to.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(source, select.POLLIN)
    with sock:
        while True:
            for ready, _event in poll.poll():
                if ready != source:
                    piece = sock.recv(_CHUNK)
                    if not piece:
                        return
                    _write_all(sink, piece)
                elif piece := os.read(source, _CHUNK):
                    sock.sendall(piece)
                else:
                    poll.unregister(source)
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_WR)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
