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

__all__ = ["refuse_disk_in_use", "refuse_disks_in_use"]

# libvirt may write these, or leave them out.
_DEFAULT_PORTS = {"iscsi": "3260", "nbd": "10809"}


@dataclass(frozen=True)
class _Disk:
    """A disk of a machine; ``source`` tells it from others."""

    target: str
    source: tuple[str, ...]
    writes: bool
    shareable: bool

    def excludes(self, other: _Disk) -> bool:
        return (
            self.source == other.source
            and (self.writes or other.writes)
            and not (self.shareable and other.shareable)
        )


def refuse_disks_in_use(domain: Domain) -> None:
    """Refuse to start a machine that has a disk which another one, that runs, has as well.

    Two that only read it may have it, and two for which it was said that it can be shared.

    Raises:
        ConflictError: It names who that is.
    """
    for own, user, other in _shared(domain, domain.xml(inactive=True)):
        raise ConflictError(
            f"'{domain.name}' can't be started: the machine '{user}' runs and {_doing(other)} its "
            f"disk {own.target}",
            details=f"it is {other.target} of '{user}': {' '.join(own.source)}",
            hint=f"stop '{user}', or detach it there: vmctl disk detach {user} {other.target}",
        )


def refuse_disk_in_use(domain: Domain, disk: str) -> None:
    """Refuse to attach a disk, which is given as XML, that another machine has that runs.

    Raises:
        ConflictError: It names who that is.
    """
    document = f"<domain><devices>{disk}</devices></domain>"
    for own, user, other in _shared(domain, document):
        raise ConflictError(
            f"the machine '{user}' runs and {_doing(other)} {' '.join(own.source)}, as its "
            f"{other.target}",
            hint=f"detach it there first: vmctl disk detach {user} {other.target}",
        )


def _doing(disk: _Disk) -> str:
    return "writes to" if disk.writes else "reads"


def _shared(domain: Domain, text: str) -> Iterator[tuple[_Disk, str, _Disk]]:
    """Yield the disks of a document that others have: which one, whose, and what it is there."""
    connection = domain.connection
    own = list(_disks(connection, text))
    with calling(f"see who uses the disks of '{domain.name}'"):
        for raw in connection.raw.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            if raw.UUIDString() == domain.uuid:
                continue
            for other in _disks(connection, _xml_of(raw)):
                yield from ((disk, raw.name(), other) for disk in own if other.excludes(disk))


def _xml_of(raw: Any) -> str:
    try:
        return str(raw.XMLDesc(0))
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return "<domain/>"
        raise


def _disks(connection: Connection, text: str) -> Iterator[_Disk]:
    for node in etree.fromstring(text).findall("devices/disk"):
        source, target = node.find("source"), node.find("target")
        found = () if source is None else _source_of(connection, source)
        if found and target is not None:
            yield _Disk(
                target=target.get("dev", ""),
                source=found,
                writes=node.find("readonly") is None,
                shareable=node.find("shareable") is not None,
            )


def _source_of(connection: Connection, source: etree._Element) -> tuple[str, ...]:
    path = source.get("file") or source.get("dev")
    if path:
        return (path,)
    pool, volume = source.get("pool"), source.get("volume")
    if pool and volume:
        # Whoever made that machine wrote it so. What can't be found isn't in use.
        with suppress(libvirt.libvirtError):
            found = connection.raw.storagePoolLookupByName(pool).storageVolLookupByName(volume)
            return (str(found.path()),)
        return ()
    protocol = source.get("protocol")
    if not protocol:
        return ()
    servers = sorted(_server(protocol, host) for host in source.findall("host"))
    return (protocol, *servers, source.get("name", ""))


def _server(protocol: str, host: etree._Element) -> str:
    port = host.get("port") or _DEFAULT_PORTS.get(protocol, "")
    return host.get("socket") or f"{host.get('name')}:{port}"
