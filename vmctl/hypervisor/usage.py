"""Who uses a volume: machines, running or not, their snapshots, and other volumes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import libvirt
from lxml import etree

from vmctl.errors import ConflictError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import record_of
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["DiskUse", "Usage", "VolumeUser", "read_usage"]


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """A machine that has a volume as its disk, and runs.

    Attributes:
        machine: Its name.
        uuid: Its UUID.
        target: The disk's name in it, ``vdb``.
        writes: Whether it may write to it.
    """

    machine: str
    uuid: str
    target: str
    writes: bool


@dataclass(frozen=True, order=True)
class VolumeUser:
    """Who uses a volume; as text, "the machine 'web'".

    Attributes:
        kind: ``machine``, one of any state and with its snapshots; or ``volume``, one that lies on
            it.
        name: The machine's name; of a volume ``POOL/NAME``.
    """

    kind: Literal["machine", "volume"]
    name: str

    def __str__(self) -> str:
        return f"the {self.kind} '{self.name}'"


class Usage:
    """Who used what, at the moment it was read."""

    def __init__(self) -> None:
        self._users: dict[object, list[VolumeUser]] = defaultdict(list)
        self._running: dict[object, list[DiskUse]] = defaultdict(list)

    def users(self, pool: str, volume: str, path: str) -> tuple[VolumeUser, ...]:
        """Return who uses a volume; nobody is an empty tuple."""
        own = VolumeUser("volume", f"{pool}/{volume}")
        found = [*self._users[path], *self._users[pool, volume]]
        return tuple(sorted({user for user in found if user != own}))

    def owners(self, volume: VolumeUser) -> tuple[VolumeUser, ...]:
        """Return the machines whose a volume is that itself lies on another one."""
        pool, _, name = volume.name.partition("/")
        return tuple(user for user in self.users(pool, name, "") if user.kind == "machine")

    def running(self, pool: str, volume: str, path: str) -> tuple[DiskUse, ...]:
        """Return the running machines that have the volume itself as a disk of theirs."""
        return tuple(dict.fromkeys([*self._running[path], *self._running[pool, volume]]))

    def users_of_pool(self, pool: str, folder: str) -> tuple[VolumeUser, ...]:
        """Return the machines that use anything of a pool, by its name or by its folder."""
        found: list[VolumeUser] = []
        for key, users in self._users.items():
            inside = isinstance(key, str) and folder and key.startswith(f"{folder}/")
            if inside or (isinstance(key, tuple) and key[0] == pool):
                found += [user for user in users if user.kind == "machine"]
        return tuple(dict.fromkeys(found))

    def add(self, key: object, user: VolumeUser) -> None:
        """Note that somebody uses a path, or a (pool, volume)."""
        self._users[key].append(user)

    def add_running(self, key: object, use: DiskUse) -> None:
        """Note a disk of a running machine."""
        self._running[key].append(use)


def read_usage(connection: Connection) -> Usage:
    """Look at every machine, every snapshot and every volume of the host."""
    usage = Usage()
    with calling("see who uses which volumes"):
        for raw in connection.raw.listAllDomains():
            with _unless_gone(libvirt.VIR_ERR_NO_DOMAIN):
                _read_domain(usage, raw)
        for raw in connection.raw.listAllStoragePools(
            libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
        ):
            _read_backing_files(usage, raw)
    return usage


class _unless_gone:  # noqa: N801 - it reads like suppress
    """Passes over what was removed between the list and the look."""

    def __init__(self, *codes: int) -> None:
        self._codes = codes

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        return is_code(error, *self._codes)


def _read_domain(usage: Usage, raw: Any) -> None:
    user = VolumeUser("machine", raw.name())
    active = bool(raw.isActive())
    documents = [raw.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)]
    if active:
        documents.append(raw.XMLDesc(0))
    # The test driver, and some others, have no snapshots to list.
    with suppress(libvirt.libvirtError):
        documents += [snapshot.getXMLDesc(0) for snapshot in raw.listAllSnapshots(0)]
    for text in documents:
        for key in set(_references(etree.fromstring(text))):
            usage.add(key, user)
    if active:
        _read_running(usage, raw, documents[1])
    try:
        record = record_of(raw)
    except ConflictError:
        return
    if record is not None:
        for pool, name in [(v.pool, v.name) for v in record.volumes] + list(record.bases):
            usage.add((pool, name), user)


def _read_running(usage: Usage, raw: Any, text: str) -> None:
    for disk in etree.fromstring(text).findall("devices/disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is None or target is None:
            continue
        use = DiskUse(
            machine=raw.name(),
            uuid=raw.UUIDString(),
            target=target.get("dev", ""),
            writes=disk.find("readonly") is None,
        )
        for key in _keys(source):
            usage.add_running(key, use)


def _references(root: etree._Element) -> Iterator[object]:
    """Yield every path on the host that a document names, wherever it stands in it.

    A disk, what is underneath it, a mirror, a kernel, an NVRAM file, a log: whatever libvirt may
    think of next is used as well.
    """
    for node in root.iter(etree.Element):
        yield from _keys(node)
        if node.text and node.text.startswith("/"):
            yield node.text


def _keys(node: etree._Element) -> Iterator[object]:
    for value in node.attrib.values():
        if str(value).startswith("/"):
            yield str(value)
    if node.get("pool") and node.get("volume"):
        yield (node.get("pool"), node.get("volume"))
    if node.tag == "source" and node.get("protocol"):
        # As `network_name` writes it for the volumes of pools that are no files.
        yield f"{node.get('protocol')}:{node.get('name')}"


def _read_backing_files(usage: Usage, pool: Any) -> None:
    try:
        volumes = pool.listAllVolumes(0)
    except libvirt.libvirtError:
        # It was stopped meanwhile, or is being changed; what a machine uses was seen above.
        return
    for raw in volumes:
        with _unless_gone(libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_ERR_NO_STORAGE_POOL):
            backing = etree.fromstring(raw.XMLDesc(0)).findtext("backingStore/path")
            if backing:
                usage.add(backing, VolumeUser("volume", f"{pool.name()}/{raw.name()}"))
