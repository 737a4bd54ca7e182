"""Disks that two machines have: what one of them writes, the other must not have at the same time.

QEMU locks files and refuses them by itself, without saying who has them; and what lies on a server
it does not lock at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import ConflictError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["refuse_disks_in_use"]

_Key = tuple[str, ...]


@dataclass(frozen=True)
class _Disk:
    target: str
    key: _Key
    writes: bool
    shareable: bool

    def excludes(self, other: _Disk) -> bool:
        return (
            self.key == other.key
            and (self.writes or other.writes)
            and not (self.shareable and other.shareable)
        )


def refuse_disks_in_use(domain: Domain) -> None:
    """Refuse to start a machine that has a disk which another one, that runs, has as well.

    Two that only read it may have it, and two for which it was said that it can be shared.

    Raises:
        ConflictError: It names who that is.
    """
    connection = domain.connection
    own = list(_disks(connection, domain.xml(inactive=True)))
    with calling(f"see who uses the disks of '{domain.name}'"):
        for raw in connection.raw.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            if raw.UUIDString() != domain.uuid:
                _refuse_shared(domain.name, own, raw, list(_disks(connection, _xml_of(raw))))


def _xml_of(raw: Any) -> str:
    try:
        return str(raw.XMLDesc(0))
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return "<domain/>"
        raise


def _refuse_shared(name: str, own: list[_Disk], raw: Any, theirs: list[_Disk]) -> None:
    for disk in own:
        other = next((entry for entry in theirs if entry.excludes(disk)), None)
        if other is not None:
            user, doing = raw.name(), "writes to" if other.writes else "reads"
            raise ConflictError(
                f"'{name}' can't be started: the machine '{user}' runs and {doing} its disk "
                f"{disk.target}",
                details=f"it is {other.target} of '{user}': {disk.key[-1]}",
                hint=f"stop '{user}', or detach it there: vmctl disk detach {user} {other.target}",
            )


def _disks(connection: Connection, text: str) -> Iterator[_Disk]:
    for node in etree.fromstring(text).findall("devices/disk"):
        source, target = node.find("source"), node.find("target")
        key = () if source is None else _key_of(connection, source)
        if key and target is not None:
            yield _Disk(
                target=target.get("dev", ""),
                key=key,
                writes=node.find("readonly") is None,
                shareable=node.find("shareable") is not None,
            )


def _key_of(connection: Connection, source: etree._Element) -> _Key:
    """Return what tells a disk from others, a path or a server's name of it at the end."""
    path = source.get("file") or source.get("dev")
    if path:
        return ("path", path)
    pool, volume = source.get("pool"), source.get("volume")
    if pool and volume:
        # Whoever made that machine wrote it so. What can't be found isn't in use.
        with suppress(libvirt.libvirtError):
            found = connection.raw.storagePoolLookupByName(pool).storageVolLookupByName(volume)
            return ("path", str(found.path()))
        return ()
    if source.get("protocol"):
        servers = [f"{host.get('name')}:{host.get('port')}" for host in source.findall("host")]
        return (source.get("protocol", ""), *sorted(servers), source.get("name", ""))
    return ()
