"""Storage pools as libvirt keeps them: what kinds there are, listed, used, forgotten."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import NotFoundError, ResourceError, VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code

__all__ = [
    "FILE_POOLS",
    "Pool",
    "PoolFacts",
    "facts_of",
    "find",
    "forget",
    "left_when_full",
    "list_pools",
    "no_room",
    "open_pool",
    "refresh",
    "refresh_files",
    "supported_types",
]

FILE_POOLS = frozenset({"dir", "fs", "netfs"})
"""Kinds of pools whose volumes are files, and so may have holes."""

# Less than that is no room at all.
_NO_ROOM = 1 << 20

STATES = ("inactive", "building", "running", "degraded", "inaccessible")
"""virStoragePoolState counts from 0 in this order."""

FILE_POOLS = frozenset({"dir", "fs", "netfs"})
"""Kinds of pools whose volumes are files, and so may have holes."""

# Less than that is no room at all.
_NO_ROOM = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PoolFacts:
    """A storage pool.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        type: libvirt's kind of it: ``dir``, ``fs``, ``iscsi-direct`` ...
        state: ``running``, ``inactive``, ``building``, ``degraded`` or ``inaccessible``.
        autostart: Whether it starts together with its host.
        persistent: Whether libvirt keeps its definition.
        capacity: Its size in bytes; 0 where that is not known, as of one that is not running.
        allocation: Bytes that are taken.
        available: Bytes that are free.
        target: The folder on the host that its volumes are in; empty where there is none.
        source: What its data comes from, as one line: servers, devices, names.
        volumes: How many volumes it has; None of one that is not running.
    """

    name: str
    uuid: str
    type: str
    state: str
    autostart: bool
    persistent: bool
    capacity: int
    allocation: int
    available: int
    target: str
    source: str
    volumes: int | None


def supported_types(connection: Connection) -> frozenset[str] | None:
    """Return the kinds of pools that this libvirt has a driver for; None if it doesn't tell."""
    with calling("ask the host for its kinds of pools"):
        try:
            text = connection.raw.getStoragePoolCapabilities(0)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
                return None
            raise
    kinds = etree.fromstring(text).findall("pool[@supported='yes']")
    return frozenset(kind.get("type", "") for kind in kinds)


def find(connection: Connection, name: str) -> Any:
    """Return libvirt's own handle of a pool, for this layer only.

    Raises:
        NotFoundError: There is none of that name.
    """
    with calling(f"find the pool '{name}'"):
        try:
            return connection.raw.storagePoolLookupByName(name)
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_NO_STORAGE_POOL):
                raise
            raise NotFoundError(
                f"there is no storage pool '{name}' at {connection.uri}",
                hint="`vmctl pool list` shows what there is, `vmctl pool create` makes one",
            ) from error


@dataclass(frozen=True)
class Pool:
    """A handle to a pool that keeps its volumes as files of one folder.

    It holds no libvirt object: each call looks the pool up.
    """

    connection: Connection
    name: str
    folder: str

    def path_of(self, volume: str) -> str:
        """Return the path that a volume of that name has, or would have, on the host."""
        return f"{self.folder}/{volume}"

    def available(self) -> int:
        """Return the bytes that are free, as its last refresh found them."""
        raw = find(self.connection, self.name)
        with calling(f"ask for the size of the pool '{self.name}'"):
            free: int = raw.info()[3]
            return free

    def refresh(self) -> None:
        """Make libvirt look at the folder again; see `refresh`."""
        refresh(self.connection, self.name)

    def names(self) -> list[str]:
        """Return the names of its volumes, sorted, as its last refresh found them."""
        raw = find(self.connection, self.name)
        with calling(f"list the pool '{self.name}'"):
            return sorted(raw.listVolumes())

    def no_room(self, what: str) -> ResourceError:
        """Return the error for a pool that is full."""
        return no_room(
            self.name, what, details=f"{self.available()} bytes are free in {self.folder}"
        )


def refresh(connection: Connection, name: str) -> None:
    """Make libvirt look through a pool again. One that is being changed is left as it is."""
    with suppress(VmctlError), calling(f"refresh the pool '{name}'"):
        find(connection, name).refresh(0)


def refresh_files(connection: Connection) -> None:
    """Make libvirt look through every pool of files that runs, for what was made behind its back.

    An overlay lies in any of them, wherever that is that it lies on.
    """
    for facts in list_pools(connection):
        if facts.state == "running" and facts.type in FILE_POOLS:
            refresh(connection, facts.name)


def left_when_full(connection: Connection, name: str) -> int | None:
    """Return the bytes that are left in a pool that filled up; None in one that did not.

    Where a job of QEMU's fails, libvirt says so and not why. QEMU writes 512 KiB at a time, so that
    little more than that may be left.
    """
    refresh(connection, name)
    available = facts_of(connection, name).available
    return available if available < _NO_ROOM else None


def no_room(pool: str, what: str, *, details: str) -> ResourceError:
    """Return the error for a pool that is full.

    Args:
        pool: Its name.
        what: For what there is no room, as it continues "has no room ...".
        details: How much is free.
    """
    return ResourceError(
        f"the pool '{pool}' has no room {what}",
        details=details,
        hint="remove machines, images or volumes that are not needed, or use another pool",
    )


def open_pool(connection: Connection, name: str) -> Pool:
    """Return the pool, started when it was not.

    Raises:
        NotFoundError: There is no such pool.
    """
    raw = find(connection, name)
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


def facts_of(connection: Connection, name: str) -> PoolFacts:
    """Return all that is known of a pool.

    Raises:
        NotFoundError: There is none of that name.
    """
    raw = find(connection, name)
    with calling(f"ask for the pool '{name}'"):
        return _read(raw)


def list_pools(connection: Connection) -> list[PoolFacts]:
    """Return every pool, sorted by name."""
    found = []
    with calling("list the pools"):
        for raw in connection.raw.listAllStoragePools(0):
            try:
                found.append(_read(raw))
            except libvirt.libvirtError as error:
                # It went away between the list and the look.
                if not is_code(error, libvirt.VIR_ERR_NO_STORAGE_POOL):
                    raise
    return sorted(found, key=lambda pool: pool.name)


def _read(raw: Any) -> PoolFacts:
    state, capacity, allocation, available = raw.info()
    root = etree.fromstring(raw.XMLDesc(0))
    count = None
    if raw.isActive():
        # It may have been stopped since.
        with suppress(libvirt.libvirtError):
            count = raw.numOfVolumes()
    return PoolFacts(
        name=raw.name(),
        uuid=raw.UUIDString(),
        type=root.get("type", ""),
        state=STATES[state],
        autostart=bool(raw.autostart()),
        persistent=bool(raw.isPersistent()),
        capacity=capacity,
        allocation=allocation,
        available=available,
        target=root.findtext("target/path") or "",
        source=_source(root),
        volumes=count,
    )


def _source(root: etree._Element) -> str:
    source = root.find("source")
    if source is None:
        return ""
    parts = []
    for host in source.findall("host"):
        port = host.get("port")
        parts.append(host.get("name", "") + (f":{port}" if port and port != "0" else ""))
    parts += [device.get("path", "") for device in source.findall("device")]
    parts += [folder.get("path", "") for folder in source.findall("dir")]
    parts += [name.text or "" for name in source.findall("name")]
    return " ".join(filter(None, parts))


def forget(connection: Connection, name: str, *, folder: bool = False) -> None:
    """Stop a pool and remove its definition. Its volumes stay; one that is gone is so already.

    Args:
        connection: The host.
        name: Which.
        folder: Whether its folder goes, if it is empty then.
    """
    try:
        raw = find(connection, name)
    except NotFoundError:
        return
    with calling(f"remove the pool '{name}'"):
        persistent = raw.isPersistent()
        if raw.isActive():
            raw.destroy()
        if not persistent:
            return
        if folder:
            # Somebody else's files may lie in it; then it stays, and they with it.
            with suppress(libvirt.libvirtError):
                raw.delete(0)
        raw.undefine()
