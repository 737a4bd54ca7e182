"""NICs with vmctl's filters, and the addresses that their filters keep them to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libvirt
from lxml import etree

from vmctl.errors import ConflictError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import record_of
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.kept_addresses import leased_to
from vmctl.hypervisor.metadata import Phase

__all__ = ["GroupedNic", "list_grouped"]


@dataclass(frozen=True, kw_only=True)
class GroupedNic:
    """A NIC in security groups.

    Attributes:
        machine: Whose it is.
        mac: Its MAC address.
        groups: The groups that it is in.
        addresses: Its addresses, as far as they are known.
    """

    machine: str
    mac: str
    groups: tuple[str, ...]
    addresses: tuple[str, ...]


def list_grouped(connection: Connection) -> list[GroupedNic]:
    """Return the NICs that are in security groups, of all machines, running or not."""
    found: list[GroupedNic] = []
    with calling("look which machines are in which security groups"):
        for raw in connection.raw.listAllDomains(0):
            try:
                record = record_of(raw)
                if record is None or record.phase is Phase.DELETING:
                    continue
                groups = {
                    str(nic.get("mac") or "").lower(): tuple(nic["security_groups"])
                    for nic in record.spec.get("nics") or ()
                    if nic.get("security_groups")
                }
                if groups:
                    root = etree.fromstring(raw.XMLDesc(0))
                    found += _of_machine(connection, raw.name(), root, groups)
            except ConflictError:
                # A newer vmctl's record: which groups it is in, that one knows.
                continue
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                    raise
    return found


def _of_machine(
    connection: Connection, name: str, root: etree._Element, groups: dict[str, tuple[str, ...]]
) -> Iterator[GroupedNic]:
    for node in root.iterfind("devices/interface"):
        mac_node, source = node.find("mac"), node.find("source")
        mac = "" if mac_node is None else (mac_node.get("address") or "").lower()
        if mac not in groups:
            continue
        said = [
            (parameter.get("name", ""), parameter.get("value", ""))
            for parameter in node.iterfind("filterref/parameter")
        ]
        addresses = [value for key, value in said if key in {"IP", "IPV6"}]
        network = None if source is None else source.get("network")
        if network and any(key == "CTRL_IP_LEARNING" for key, _value in said):
            addresses += leased_to(connection, network, mac)
        yield GroupedNic(
            machine=name,
            mac=mac,
            groups=groups[mac],
            addresses=tuple(dict.fromkeys(addresses)),
        )
