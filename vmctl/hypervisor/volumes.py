"""Volumes as libvirt keeps them, in pools of every kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import libvirt
from lxml import etree

from vmctl.errors import ConflictError, NotFoundError, ResourceError, VmctlError
from vmctl.hypervisor import pools, streams
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code, translate

__all__ = ["StoredVolume", "VolumeFacts", "VolumeStamp", "at_path", "list_volumes"]

_KINDS = ("file", "block", "dir", "network", "netdir", "ploop")
"""virStorageVolType counts from 0 in this order."""


@dataclass(frozen=True, kw_only=True)
class VolumeFacts:
    """A volume.

    Attributes:
        pool: The pool it is in.
        name: Its name there.
        path: Where it is on the host; of a pool without paths, libvirt's name for it.
        type: ``file``, ``block``, ``network`` or ``dir``.
        format: How it is written (``qcow2``, ``raw``); empty where libvirt doesn't say.
        capacity: What a guest sees, in bytes.
        allocation: Bytes that it takes on the host.
        backing: Path of the image underneath; empty where there is none.
    """

    pool: str
    name: str
    path: str
    type: str
    format: str
    capacity: int
    allocation: int
    backing: str


@dataclass(frozen=True, kw_only=True)
class VolumeStamp:
    """What tells a volume from itself after it was written to, as far as the pool knows.

    Attributes:
        allocation: Bytes that it takes on the host; a block that is written over takes no more.
        written: When its content was changed, seconds and nanoseconds as libvirt writes them; empty
            where there are no such times, as for volumes that are no files.
        touched: When its content, its owner or its mode was changed; likewise.
    """

    allocation: int
    written: str
    touched: str


@dataclass(frozen=True)
class StoredVolume:
    """A handle to one volume. It holds no libvirt object: each call looks the volume up."""

    connection: Connection
    pool: str
    name: str

    @classmethod
    def of(cls, pool: pools.Pool, name: str) -> Self:
        """Return the handle of a volume of a pool, whether it exists or not."""
        return cls(pool.connection, pool.name, name)

    def _look_up(self) -> Any | None:
        pool = pools.find(self.connection, self.pool)
        with calling(f"find the volume '{self.name}'"):
            try:
                return pool.storageVolLookupByName(self.name)
            except libvirt.libvirtError as error:
                if is_code(error, libvirt.VIR_ERR_NO_STORAGE_VOL):
                    return None
                raise

    def raw(self) -> Any:
        """Return libvirt's own handle, for this layer only.

        Raises:
            NotFoundError: There is no such pool, or no such volume in it.
        """
        raw = self._look_up()
        if raw is None:
            raise NotFoundError(
                f"there is no volume '{self.name}' in the pool '{self.pool}'",
                hint=f"`vmctl volume list {self.pool}` shows what there is",
            )
        return raw

    def exists(self) -> bool:
        """Return whether the pool has it."""
        return self._look_up() is not None

    def path(self) -> str:
        """Return where it is on the host.

        Raises:
            NotFoundError: It isn't there.
        """
        raw = self.raw()
        with calling(f"ask for the path of the volume '{self.name}'"):
            path: str = raw.path()
            return path

    def facts(self) -> VolumeFacts:
        """Return all that is known of it, its sizes read anew.

        Raises:
            NotFoundError: It isn't there.
        """
        raw = self.raw()
        with calling(f"ask for the volume '{self.name}'"):
            return _read(self.pool, raw)

    def format_underneath(self) -> str:
        """Return the format of what lies under it, as its header gives it; empty for nothing.

        That is what QEMU goes by. How the volume underneath is listed is only what it looks like:
        a guest may have chosen that, if it was a raw disk.

        Raises:
            NotFoundError: It isn't there.
        """
        raw = self.raw()
        with calling(f"ask what is under the volume '{self.name}'"):
            form = etree.fromstring(raw.XMLDesc(0)).find("backingStore/format")
            return "" if form is None else form.get("type", "")

    def physical_size(self) -> int:
        """Return the bytes that a download gives."""
        raw = self.raw()
        with calling(f"ask for the size of the volume '{self.name}'"):
            size: int = raw.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2]
            return size

    def stamp(self) -> VolumeStamp:
        """Return what will differ when it was written to, read anew.

        Raises:
            NotFoundError: It isn't there.
        """
        raw = self.raw()
        with calling(f"ask for the times of the volume '{self.name}'"):
            root = etree.fromstring(raw.XMLDesc(0))
            allocation = raw.info()[2]
        return VolumeStamp(
            allocation=allocation,
            written=root.findtext("target/timestamps/mtime") or "",
            touched=root.findtext("target/timestamps/ctime") or "",
        )

    def create(
        self, xml: str, *, source: StoredVolume | None = None, preallocated: bool = False
    ) -> None:
        """Make it.

        Args:
            xml: Its XML.
            source: A volume whose content is copied into it, all that is underneath included.
            preallocated: Whether a qcow2 volume takes at once what its XML says it is allocated.

        Raises:
            ConflictError: There is one of that name; it stays untouched.
            ResourceError: There is no room.
        """
        pool = pools.find(self.connection, self.pool)
        origin = None if source is None else source.raw()
        doing = f"create the volume '{self.name}' in the pool '{self.pool}'"
        with calling(doing, on=lambda error: self._why_not(error, pool)):
            if origin is None:
                # The flag's name tells half of it: where the allocation is not less than the
                # capacity, libvirt lets qemu-img allocate all (preallocation=falloc).
                flag = libvirt.VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA
                pool.createXML(xml, flag if preallocated else 0)
            else:
                pool.createXMLFrom(xml, origin, 0)

    def _why_not(self, error: libvirt.libvirtError, pool: Any) -> VmctlError | None:
        if is_code(error, libvirt.VIR_ERR_STORAGE_VOL_EXIST):
            return self.name_is_taken()
        # qemu-img fails with its own words when the disk is full; the facts say it as well.
        with suppress(libvirt.libvirtError):
            pool.refresh(0)
            available = pool.info()[3]
            if available < _NO_ROOM or isinstance(translate(error, "write"), ResourceError):
                return pools.no_room(
                    self.pool,
                    f"for the volume '{self.name}'",
                    details=f"{available} bytes are free; {error.get_error_message()}",
                )
        return None

    def name_is_taken(self) -> ConflictError:
        """Return the error for a name that is in use."""
        return ConflictError(
            f"there is a volume '{self.name}' in the pool '{self.pool}' already",
            hint=f"choose another name, or see whose it is: "
            f"`vmctl volume info {self.pool}/{self.name}`",
        )

    def delete(self) -> bool:
        """Delete it; returns whether it was there."""
        try:
            raw = self.raw()
        except NotFoundError:
            return False
        with calling(f"delete the volume '{self.name}' in the pool '{self.pool}'"):
            try:
                raw.delete(0)
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_NO_STORAGE_VOL):
                    raise
                return False
        return True

    def wipe(self) -> None:
        """Write zeros over all of it."""
        raw = self.raw()
        with calling(f"wipe the volume '{self.name}' in the pool '{self.pool}'"):
            raw.wipe(0)

    def resize(self, capacity: int) -> None:
        """Give it another capacity, in bytes, while nothing runs on it."""
        raw = self.raw()
        pool = pools.find(self.connection, self.pool)
        doing = f"resize the volume '{self.name}' in the pool '{self.pool}'"
        with calling(doing, on=lambda error: self._why_not(error, pool)):
            raw.resize(capacity, 0)

    def upload(
        self,
        file: int,
        *,
        start: int,
        length: int,
        sparse: bool = False,
        sent: Callable[[int], None] = lambda _count: None,
        shown: Callable[[bytes], None] = lambda _piece: None,
    ) -> None:
        """Write a part of a client's open file to the same place; see `streams.send`.

        Raises:
            NotFoundError: The volume is gone.
            ResourceError: The pool filled up.
        """
        raw = self.raw()
        pool = pools.find(self.connection, self.pool)
        doing = f"write the volume '{self.name}' in the pool '{self.pool}'"
        with calling(doing, on=lambda error: self._why_not(error, pool)):
            streams.send(
                self.connection,
                raw,
                file,
                start=start,
                length=length,
                sparse=sparse,
                sent=sent,
                shown=shown,
            )

    def write(self, content: bytes, *, sent: Callable[[int], None] = lambda _count: None) -> None:
        """Write bytes to its beginning.

        Raises:
            NotFoundError: The volume is gone.
            ResourceError: The pool filled up.
        """
        with os.fdopen(os.memfd_create("vmctl-volume"), "wb") as file:
            file.write(content)
            file.flush()
            self.upload(file.fileno(), start=0, length=len(content), sent=sent)

    def download(
        self,
        file: int,
        *,
        start: int = 0,
        length: int = 0,
        received: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """Write all of it, or a part, into a client's empty file; see `streams.receive`.

        Raises:
            NotFoundError: There is no such volume.
        """
        raw = self.raw()
        with calling(f"read the volume '{self.name}' in the pool '{self.pool}'"):
            streams.receive(
                self.connection, raw, file, start=start, length=length, received=received
            )

    def read(self, *, start: int = 0, length: int = 0) -> bytes:
        """Return its bytes from ``start`` on: ``length`` of them, or 0 for all; fewer at its end.

        Raises:
            NotFoundError: There is no such volume.
        """
        with os.fdopen(os.memfd_create("vmctl-volume"), "rb") as file:
            self.download(file.fileno(), start=start, length=length)
            return file.read()

    def pieces(self) -> Iterator[bytes | int]:
        """Yield all of it from its beginning; see `streams.pieces`."""
        raw = self.raw()
        with calling(f"read the volume '{self.name}' in the pool '{self.pool}'"):
            yield from streams.pieces(self.connection, raw)


# Less than a packet of a stream is no room at all.
_NO_ROOM = 256 * 1024


def _read(pool: str, raw: Any) -> VolumeFacts:
    kind, capacity, allocation = raw.info()
    root = etree.fromstring(raw.XMLDesc(0))
    form = root.find("target/format")
    return VolumeFacts(
        pool=pool,
        name=raw.name(),
        path=raw.path(),
        type=_KINDS[kind],
        format="" if form is None else form.get("type", ""),
        capacity=capacity,
        allocation=allocation,
        backing=root.findtext("backingStore/path") or "",
    )


def at_path(connection: Connection, path: str) -> StoredVolume:
    """Return the volume that lies at a path of the host.

    Raises:
        NotFoundError: No pool that runs has one there.
    """
    with calling(f"find the volume at {path!r}"):
        try:
            raw = connection.raw.storageVolLookupByPath(path)
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_NO_STORAGE_VOL):
                raise
            raise NotFoundError(
                f"no pool has a volume at {path!r}, and only volumes can be read",
                hint="make a pool of the folder that it is in",
            ) from error
        return StoredVolume(connection, raw.storagePoolLookupByVolume().name(), raw.name())


def list_volumes(connection: Connection, pool: str) -> list[VolumeFacts]:
    """Return the volumes of a pool as they are now, sorted by name."""
    raw = pools.find(connection, pool)
    found = []
    with calling(f"list the pool '{pool}'"):
        # A pool that is being changed is as fresh as it gets.
        with suppress(libvirt.libvirtError):
            raw.refresh(0)
        for volume in raw.listAllVolumes(0):
            try:
                found.append(_read(pool, volume))
            except libvirt.libvirtError as error:
                # It went away between the list and the look.
                if not is_code(error, libvirt.VIR_ERR_NO_STORAGE_VOL):
                    raise
    return sorted(found, key=lambda volume: volume.name)
