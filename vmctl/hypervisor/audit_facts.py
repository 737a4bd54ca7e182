"""What an audit reads of libvirt, beside what others read of it too."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import libvirt
from lxml import etree

from vmctl.errors import NotFoundError
from vmctl.hypervisor import nwfilters
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.metadata import OwnedVolume, Record
from vmctl.hypervisor.network_owners import NetworkOwner, owner_of

__all__ = ["FileMode", "command_line", "files_of", "filters_of", "networks_of"]


@dataclass(frozen=True, kw_only=True)
class FileMode:
    """A volume, and who may read it.

    Attributes:
        name: Its name.
        mode: The mode of its file; None where its pool has no files.
        role: What the machine has it for.
    """

    name: str
    mode: int | None
    role: str


def command_line(domain: Domain) -> tuple[str, ...]:
    """Return QEMU's command line as libvirt would make it now; empty where it doesn't say.

    It is that of a start with the machine's definition, and has no passwords in it.
    """
    raw = domain.connection.raw
    with calling(f"ask for the command line of '{domain.name}'"):
        try:
            text: str = raw.domainXMLToNative("qemu-argv", domain.xml(inactive=True), 0)
        except libvirt.libvirtError as error:
            # A driver that has none, and a definition that can't be translated.
            if not is_code(
                error,
                libvirt.VIR_ERR_NO_SUPPORT,
                libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
                libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
                libvirt.VIR_ERR_INTERNAL_ERROR,
                libvirt.VIR_ERR_INVALID_ARG,
            ):
                raise
            return ()
    return tuple(shlex.split(text.replace("\\\n", " ")))


def files_of(connection: Connection, record: Record) -> Iterator[FileMode]:
    """Return the volumes that a record lists, with who may read them; one that is gone is none."""
    for volume in record.volumes:
        with suppress(NotFoundError):
            yield FileMode(name=volume.name, mode=_mode(connection, volume), role=volume.role.value)


def _mode(connection: Connection, volume: OwnedVolume) -> int | None:
    with calling(f"ask for the volume '{volume.name}'"):
        try:
            pool = connection.raw.storagePoolLookupByName(volume.pool)
            root = etree.fromstring(pool.storageVolLookupByName(volume.name).XMLDesc(0))
        except libvirt.libvirtError as error:
            gone = (libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_ERR_NO_STORAGE_POOL)
            if not is_code(error, *gone):
                raise
            raise NotFoundError(
                f"there is no volume '{volume.name}'", hint="`vmctl gc` sees to what is half gone"
            ) from error
    text = root.findtext("target/permissions/mode")
    return None if text is None else int(text, 8)


def filters_of(domain: Domain) -> dict[str, frozenset[str]]:
    """Return the packet filters that its NICs refer to, each with those that it is made of."""
    root = etree.fromstring(domain.xml())
    names = {node.get("filter", "") for node in root.iterfind("devices/interface/filterref")}
    found = {}
    for name in names:
        with suppress(NotFoundError):
            parts = nwfilters.read(domain.connection, name).iterfind("filterref")
            found[name] = frozenset({name, *(part.get("filter", "") for part in parts)})
    return found


def networks_of(domain: Domain) -> dict[str, NetworkOwner]:
    """Return the networks that a machine is on; one that isn't there is left out."""
    found = {}
    for name in domain.networks():
        with suppress(NotFoundError):
            found[name] = owner_of(domain.connection, name)
    return found
