"""Pools and volumes. Every byte travels through libvirt, so a remote host is no special case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import libvirt
from lxml import etree

from vmctl.errors import (
    ConflictError,
    HostUnavailableError,
    NotFoundError,
    ResourceError,
    VmctlError,
)
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["Pool", "PoolInfo", "Volume", "VolumeInfo", "open_pool"]

# A stream packet of libvirt's RPC carries 256 KiB at most (VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX).
_CHUNK = 256 * 1024
_HINT_GONE = "somebody removed it, or the pool; `virsh vol-list` on the host shows what there is"


@dataclass(frozen=True, kw_only=True)
class PoolInfo:
    """A pool's sizes, in bytes."""

    capacity: int
    available: int


@dataclass(frozen=True, kw_only=True)
class VolumeInfo:
    """A volume's sizes, in bytes: what a guest sees, and what it takes on the host."""

    capacity: int
    allocation: int


@dataclass(frozen=True)
class Volume:
    """A volume that was seen to exist."""

    pool: Pool
    name: str
    path: str


@dataclass(frozen=True)
class Pool:
    """A handle to a storage pool that keeps its volumes as files of one folder."""

    connection: Connection
    name: str
    folder: str

    def _raw(self) -> Any:
        with calling(f"find the pool '{self.name}'"):
            return self.connection.raw.storagePoolLookupByName(self.name)

    def path_of(self, volume: str) -> str:
        """Return the path that a volume of that name has, or would have, on the host."""
        return f"{self.folder}/{volume}"

    def info(self) -> PoolInfo:
        """Return its sizes, as its last refresh found them."""
        with calling(f"ask for the size of the pool '{self.name}'"):
            _state, capacity, _allocation, available = self._raw().info()
        return PoolInfo(capacity=capacity, available=available)

    def refresh(self) -> None:
        """Make libvirt look at the folder again. A pool that is being changed is left as it is."""
        with suppress(VmctlError), calling(f"refresh the pool '{self.name}'"):
            self._raw().refresh(0)

    def volumes(self) -> list[str]:
        """Return the names of its volumes."""
        with calling(f"list the pool '{self.name}'"):
            return sorted(self._raw().listVolumes())

    def _look_up(self, volume: str) -> Any | None:
        with calling(f"find the volume '{volume}'"):
            try:
                return self._raw().storageVolLookupByName(volume)
            except libvirt.libvirtError as error:
                if is_code(error, libvirt.VIR_ERR_NO_STORAGE_VOL):
                    return None
                raise

    def find(self, volume: str) -> Volume | None:
        """Return the volume of that name, or None."""
        raw = self._look_up(volume)
        return None if raw is None else Volume(self, volume, raw.path())

    def volume_info(self, volume: str) -> VolumeInfo | None:
        """Return the sizes of the volume, read from the file itself, or None if it isn't there."""
        raw = self._look_up(volume)
        if raw is None:
            return None
        with calling(f"ask for the size of the volume '{volume}'"):
            _kind, capacity, allocation = raw.info()
        return VolumeInfo(capacity=capacity, allocation=allocation)

    def create(self, volume: str, xml: str) -> Volume:
        """Create a volume.

        Raises:
            ConflictError: There is one of that name; it stays untouched.
            ResourceError: There is no room.
        """
        doing = f"create the volume '{volume}' in the pool '{self.name}'"
        with calling(doing, on=lambda _error: self._why_not(volume)):
            raw = self._raw().createXML(xml, 0)
            return Volume(self, volume, raw.path())

    def _why_not(self, volume: str) -> VmctlError | None:
        # qemu-img fails with its own words when the disk is full; the facts say it as well.
        status = _space_of(self._raw())
        if status is not None and status.available < _CHUNK:
            return self.no_room(f"for the volume '{volume}'")
        return None

    def no_room(self, what: str) -> ResourceError:
        """Return the error for a pool that is full."""
        return ResourceError(
            f"the pool '{self.name}' has no room {what}",
            details=f"{self.info().available} bytes are free in {self.folder}",
            hint="remove machines or images that are not needed, or use another pool",
        )

    def delete(self, volume: str) -> bool:
        """Delete a volume; returns whether it was there."""
        raw = self._look_up(volume)
        if raw is None:
            return False
        with calling(f"delete the volume '{volume}'"):
            try:
                raw.delete(0)
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_NO_STORAGE_VOL):
                    raise
                return False
        return True

    def upload(
        self,
        volume: str,
        source: BinaryIO,
        *,
        length: int,
        offset: int = 0,
        sent: Callable[[int], None] | None = None,
    ) -> None:
        """Write bytes into a volume.

        Args:
            volume: Its name.
            source: Where to read them, from its current position.
            length: How many.
            offset: Where in the volume they go.
            sent: Called with the number of bytes of each piece that went.

        Raises:
            NotFoundError: The volume is gone.
            ResourceError: The pool filled up.
        """
        raw = self._look_up(volume)
        if raw is None:
            raise NotFoundError(
                f"there is no volume '{volume}' in the pool '{self.name}'", hint=_HINT_GONE
            )
        doing = f"write the volume '{volume}'"
        with calling(doing, on=lambda _error: self._why_not(volume)):
            stream = self.connection.raw.newStream(0)
            try:
                raw.upload(stream, offset, length, 0)
                for piece in _pieces(source, length):
                    _send(stream, piece)
                    if sent is not None:
                        sent(len(piece))
                stream.finish()
            except BaseException:
                # After an error the stream is gone already.
                with suppress(libvirt.libvirtError):
                    stream.abort()
                raise

    def download(self, volume: str, *, offset: int = 0, length: int = 0) -> bytes:
        """Return bytes of a volume.

        Args:
            volume: Its name.
            offset: The first byte.
            length: How many; 0 for all that follow.
        """
        raw = self._look_up(volume)
        if raw is None:
            raise NotFoundError(
                f"there is no volume '{volume}' in the pool '{self.name}'", hint=_HINT_GONE
            )
        pieces = []
        with calling(f"read the volume '{volume}'"):
            stream = self.connection.raw.newStream(0)
            try:
                raw.download(stream, offset, length, 0)
                while piece := stream.recv(_CHUNK):
                    pieces.append(piece)
                stream.finish()
            except BaseException:
                with suppress(libvirt.libvirtError):
                    stream.abort()
                raise
        return b"".join(pieces)


def _send(stream: Any, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        count = stream.send(bytes(view))
        if count < 0:
            raise HostUnavailableError(
                "libvirt took no more of the upload",
                hint="is the host's disk full, or libvirtd restarting? `vmctl doctor`",
            )
        view = view[count:]


def _pieces(source: BinaryIO, length: int) -> Iterator[bytes]:
    left = length
    while left:
        piece = source.read(min(_CHUNK, left))
        if not piece:
            raise ConflictError(
                "the file became shorter while it was being read",
                hint="wait until whatever writes it is done",
            )
        left -= len(piece)
        yield piece


def _space_of(raw: Any) -> PoolInfo | None:
    with suppress(libvirt.libvirtError):
        raw.refresh(0)
        _state, capacity, _allocation, available = raw.info()
        return PoolInfo(capacity=capacity, available=available)
    return None


def open_pool(connection: Connection, name: str) -> Pool:
    """Return the pool, started when it was not.

    Raises:
        NotFoundError: There is no such pool.
    """
    with calling(f"find the pool '{name}'"):
        try:
            raw = connection.raw.storagePoolLookupByName(name)
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_NO_STORAGE_POOL):
                raise
            raise NotFoundError(
                f"there is no storage pool '{name}' at {connection.uri}",
                hint=f"make one: virsh pool-define-as {name} dir --target FOLDER && "
                f"virsh pool-build {name} && virsh pool-start {name}",
            ) from error
    with calling(f"start the pool '{name}'"):
        try:
            if not raw.isActive():
                raw.create(0)
        except libvirt.libvirtError:
            # Somebody else may have been quicker.
            if not raw.isActive():
                raise
        folder = etree.fromstring(raw.XMLDesc(0)).findtext("target/path")
    return Pool(connection, name, os.path.normpath(folder or "/"))
