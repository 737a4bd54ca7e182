"""Bytes between a file on the client and a volume, through libvirt's streams, with their holes.

https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamSendHole
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import libvirt

from vmctl.errors import ConflictError, HostUnavailableError
from vmctl.hypervisor.connection import Connection

__all__ = ["data_size", "pieces", "receive", "send"]

# Measured, with benchmarks/stream.py: what is sent goes in one packet of any size up to 16 MiB, is
# fastest at this, and several times slower from 2 MiB on.
_SENT = 1 << 20
# libvirtd never gives more at once (VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX, less a header).
_RECEIVED = 262120
# virStreamRecvFlags: the next thing in the stream is a hole.
_AT_HOLE = -3


def data_size(file: int) -> int:
    """Return how many bytes of an open file are not in holes."""
    end = os.fstat(file).st_size
    return sum(length for _start, length, is_data in _extents(file, 0, end) if is_data)


def _extents(file: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, length, whether it is data) of the parts of a file; see lseek(2)."""
    position = start
    while position < end:
        data = min(_seek(file, position, os.SEEK_DATA, end), end)
        if data > position:
            yield position, data - position, False
        if data == end:
            return
        hole = min(_seek(file, data, os.SEEK_HOLE, end), end)
        yield data, hole - data, True
        position = hole


def _seek(file: int, position: int, whence: int, end: int) -> int:
    try:
        return os.lseek(file, position, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:  # there is no more data
            return end
        if error.errno in {errno.EINVAL, errno.ENOTSUP}:  # a file system without holes
            return position if whence == os.SEEK_DATA else end
        raise


@contextmanager
def _stream(connection: Connection) -> Iterator[Any]:
    stream = connection.raw.newStream(0)
    try:
        yield stream
        # What the host could not write, it says here at the latest.
        stream.finish()
    except BaseException:
        # After an error the stream is gone already.
        with suppress(libvirt.libvirtError):
            stream.abort()
        raise


def send(
    connection: Connection,
    volume: Any,
    file: int,
    *,
    start: int,
    length: int,
    sparse: bool,
    sent: Callable[[int], None],
    shown: Callable[[bytes], None],
) -> None:
    """Write a part of a client's file to the same place in a volume.

    Args:
        connection: The host.
        volume: libvirt's handle of the volume.
        file: The open file.
        start: The first byte.
        length: How many.
        sparse: Whether holes are passed over, which is right only where the volume reads as zeros.
        sent: Called with the number of bytes that each piece, or hole, had.
        shown: Called with each piece of data before it goes.
    """
    flags = libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM if sparse else 0
    end = start + length
    with _stream(connection) as stream:
        volume.upload(stream, start, length, flags)
        parts = _extents(file, start, end) if sparse else iter([(start, length, True)])
        for place, size, is_data in parts:
            if not is_data:
                stream.sendHole(size, 0)
                sent(size)
                continue
            for piece in _pieces(file, place, place + size):
                shown(piece)
                _send_piece(stream, piece, sent)


def _pieces(file: int, position: int, end: int) -> Iterator[bytes]:
    while position < end:
        piece = os.pread(file, min(_SENT, end - position), position)
        if not piece:
            raise ConflictError(
                "the file became shorter while it was being read",
                hint="wait until whatever writes it is done",
            )
        position += len(piece)
        yield piece


def _send_piece(stream: Any, piece: bytes, sent: Callable[[int], None]) -> None:
    while piece:
        count = stream.send(piece)
        if count < 0:
            raise HostUnavailableError(
                "libvirt took no more of the upload",
                hint="is the host's disk full, or libvirtd restarting? `vmctl doctor`",
            )
        piece = piece[count:]
        sent(count)


def receive(
    connection: Connection,
    volume: Any,
    file: int,
    *,
    start: int,
    length: int,
    received: Callable[[int], None],
) -> None:
    """Write a part of a volume into an empty file on the client; what is a hole stays one.

    Args:
        connection: The host.
        volume: libvirt's handle of the volume.
        file: The open file; the part is at its beginning.
        start: The first byte.
        length: How many; 0 for all that follow.
        received: Called with the number of bytes that each piece, or hole, had.
    """
    position = 0
    for piece in pieces(connection, volume, start=start, length=length):
        count = piece if isinstance(piece, int) else _write(file, piece, position)
        position += count
        received(count)
    # A hole at the end is written by nobody.
    os.ftruncate(file, position)


def pieces(
    connection: Connection, volume: Any, *, start: int = 0, length: int = 0
) -> Iterator[bytes | int]:
    """Yield a part of a volume, or all of it: its data, and of each hole the number of bytes."""
    with _stream(connection) as stream:
        volume.download(stream, start, length, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        while True:
            piece = stream.recvFlags(_RECEIVED, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
            if piece == _AT_HOLE:
                yield int(stream.recvHole(0))
            elif not piece:
                return
            elif isinstance(piece, int):
                raise HostUnavailableError(
                    "libvirt gave no more of the download", hint="try again; `vmctl doctor`"
                )
            else:
                yield bytes(piece)


def _write(file: int, piece: bytes, position: int) -> int:
    view = memoryview(piece)
    while view:
        count = os.pwrite(file, view, position)
        view, position = view[count:], position + count
    return len(piece)
