"""What came to a running network while somebody worked out another definition of it.

An entry that others add goes into the running network and into its definition in one step, and so
does one that they take away. A definition that was read before does not know of it. What runs does.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import libvirt
from lxml import etree

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.networks import find
from vmctl.render.network_parts import family_of

__all__ = ["carry_over"]

# A section of libvirt's, the family of the subnet that it is in, if it is, and the entry's XML.
Entry: TypeAlias = tuple[int, str, str]

_DHCP = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
_DNS = libvirt.VIR_NETWORK_SECTION_DNS_HOST
_LATER = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG


def carry_over(connection: Connection, name: str, before: str) -> None:
    """Let a network's definition have what the running one was given, or lost, since.

    Args:
        connection: The host.
        name: The network.
        before: How it ran, looked at before the definition that it has now was begun with.
    """
    raw = find(connection, name)
    with calling(f"compare the definitions of the network '{name}'"):
        if not (raw.isActive() and raw.isPersistent()):
            return
        then, now = (_entries(etree.fromstring(text)) for text in (before, raw.XMLDesc(0)))
        come = [entry for entry in now if entry not in then]
        gone = [entry for entry in then if entry not in now]
        for entry in gone:
            _change(raw, entry, comes=False)
        for entry in come:
            _change(raw, entry, comes=True)


def _change(raw: Any, entry: Entry, *, comes: bool) -> None:
    section, family, text = entry
    command = (
        libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
        if comes
        else libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
    )

    def look() -> tuple[bool, int | None]:
        root = etree.fromstring(raw.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))
        return entry in _entries(root), _place_of(root, section, family)

    there, place = look()
    if there == comes or place is None:
        return
    try:
        raw.update(command, section, place, text, _LATER)
    except libvirt.libvirtError:
        # Somebody else's change of it came in the same moment.
        if look()[0] != comes:
            raise


def _entries(root: etree._Element) -> list[Entry]:
    found = [(_DNS, "", _text(node)) for node in root.iterfind("dns/host")]
    for subnet in root.iterfind("ip"):
        family = family_of(subnet)
        found += [(_DHCP, family, _text(node)) for node in subnet.iterfind("dhcp/host")]
    return found


def _place_of(root: etree._Element, section: int, family: str) -> int | None:
    """Return the index of the subnet that an entry goes into; None if there is none any more."""
    if section == _DNS:
        return -1
    subnets = enumerate(root.iterfind("ip"))
    return next((index for index, node in subnets if family_of(node) == family), None)


def _text(node: etree._Element) -> str:
    """Return an entry as it is written everywhere: indented or not, its attributes sorted."""
    given = {str(name): str(value) for name, value in node.attrib.items()}
    made = etree.Element(node.tag, dict(sorted(given.items())))
    for inner in node:
        etree.SubElement(made, inner.tag).text = inner.text
    return etree.tostring(made, encoding="unicode")
