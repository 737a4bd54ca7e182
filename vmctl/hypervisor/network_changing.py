"""Changing networks: entry by entry while they run, and by a new definition for the next start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import HypervisorError, VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.networks import find, next_definition
from vmctl.render.network_parts import family_of

__all__ = ["Definitions", "define", "definitions", "replace_entry", "restart", "set_autostart"]

_SECTIONS = {
    "dns": libvirt.VIR_NETWORK_SECTION_DNS_HOST,
    "range": libvirt.VIR_NETWORK_SECTION_IP_DHCP_RANGE,
    "reservations": libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST,
}


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """A network's XML.

    Attributes:
        uuid: Its UUID.
        next: That of its next start.
        running: As it runs; None where it is off.
        persistent: Whether libvirt keeps it.
        autostart: Whether it starts together with its host.
    """

    uuid: str
    next: str
    running: str | None
    persistent: bool
    autostart: bool


def definitions(connection: Connection, name: str) -> Definitions:
    """Return how a network runs, and how it starts next.

    Raises:
        NotFoundError: There is none of that name.
    """
    raw = find(connection, name)
    with calling(f"ask for the network '{name}'"):
        persistent = bool(raw.isPersistent())
        return Definitions(
            uuid=raw.UUIDString(),
            next=next_definition(raw),
            running=raw.XMLDesc(0) if raw.isActive() else None,
            persistent=persistent,
            autostart=persistent and bool(raw.autostart()),
        )


def replace_entry(
    connection: Connection,
    name: str,
    path: str,
    old: etree._Element | None,
    new: etree._Element | None,
) -> None:
    """Put one entry of a running network in the place of another; its definition stays.

    Args:
        connection: The host.
        name: The network.
        path: What it is, in the spec's words: ``ipv4.reservations.52:54:..``, ``ipv4.range``,
            ``dns.hosts.192.0.2.7``.
        old: The entry that goes.
        new: The entry that comes.

    Raises:
        HypervisorError: libvirt refuses it; the entry that was to go is there again.
    """
    raw = find(connection, name)
    family, _, rest = path.partition(".")
    section = _SECTIONS["dns" if family == "dns" else rest.partition(".")[0]]
    parent = -1 if family == "dns" else _index_of(raw, family)

    def update(command: int, node: etree._Element) -> None:
        text = etree.tostring(node, encoding="unicode", with_tail=False)
        live = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
        raw.update(command, section, parent, text, live)

    with calling(f"change the network '{name}'", on=_refused(name, path)):
        if old is not None:
            update(libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, old)
        if new is None:
            return
        try:
            update(libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, new)
        except libvirt.libvirtError:
            if old is not None:
                update(libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, old)
            raise


def _index_of(raw: Any, family: str) -> int:
    with calling("read the network"):
        nodes = etree.fromstring(raw.XMLDesc(0)).findall("ip")
    families = [family_of(node) for node in nodes]
    return families.index(family) if family in families else -1


def _refused(name: str, path: str) -> Callable[[libvirt.libvirtError], VmctlError | None]:
    def refused(error: libvirt.libvirtError) -> VmctlError | None:
        codes = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_INTERNAL_ERROR)
        if not is_code(error, *codes, libvirt.VIR_ERR_XML_ERROR):
            return None
        return HypervisorError(
            f"the running network '{name}' can't be given another {path}",
            code=error.get_error_code(),
            details=error.get_error_message() or "",
            hint="it is as it was; if another entry has the name or the address, that goes first",
        )

    return refused


def define(connection: Connection, name: str, xml: str) -> None:
    """Give a network another definition; what runs goes on as it is.

    Raises:
        HypervisorError: libvirt refuses it.
    """

    def refused(error: libvirt.libvirtError) -> VmctlError | None:
        if not is_code(error, libvirt.VIR_ERR_INTERNAL_ERROR):
            return None
        return HypervisorError(
            f"libvirt refuses what the network '{name}' shall be",
            code=error.get_error_code(),
            details=error.get_error_message() or "",
            hint="if another network has its bridge or its name, choose others",
        )

    with calling(f"define the network '{name}'", on=refused):
        connection.raw.networkDefineXMLFlags(xml, libvirt.VIR_NETWORK_DEFINE_VALIDATE)


def set_autostart(connection: Connection, name: str, *, on: bool) -> None:
    """Let a network start with its host, or not."""
    raw = find(connection, name)
    with calling(f"change the network '{name}'"):
        raw.setAutostart(int(on))


def restart(connection: Connection, name: str) -> None:
    """Stop a network and start it by its definition; one that is off is only started.

    Raises:
        HypervisorError: libvirt can't start it; it is off.
    """
    raw = find(connection, name)

    def refused(error: libvirt.libvirtError) -> VmctlError:
        return HypervisorError(
            f"the network '{name}' can't be started as it is now defined",
            code=error.get_error_code(),
            details=error.get_error_message() or "",
            hint="if something on the host has its addresses or its bridge already, choose others",
        )

    with calling(f"stop the network '{name}'"):
        if raw.isActive():
            raw.destroy()
    with calling(f"start the network '{name}'", on=refused):
        raw.create()
