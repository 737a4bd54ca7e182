"""Addresses that networks keep for machines, as vmctl's record of a machine lists them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from lxml import etree

__all__ = ["ReservedAddress"]

_TAG = "reserved-address"


@dataclass(frozen=True, kw_only=True)
class ReservedAddress:
    """An address that a network keeps for one NIC of a machine.

    Attributes:
        network: The network.
        mac: The NIC's MAC address.
        address: What is kept.
        name: The guest's name there; empty where another guest has it already.
        static: Whether the guest has it without asking the DHCP server. Its name is then in the
            network's DNS server, which else learns it when the guest asks.
    """

    network: str
    mac: str
    address: str
    name: str = ""
    static: bool = False

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.address).version

    def __str__(self) -> str:
        return f"{self.address} on the network '{self.network}'"

    def add_to(self, root: etree._Element) -> None:
        """Write it into a record."""
        given = {"network": self.network, "mac": self.mac, "address": self.address}
        if self.name:
            given["name"] = self.name
        if self.static:
            given["static"] = "yes"
        etree.SubElement(root, _TAG, given)

    @classmethod
    def all_in(cls, root: etree._Element) -> tuple[ReservedAddress, ...]:
        """Read those of a record."""
        return tuple(
            cls(
                network=node.get("network", ""),
                mac=node.get("mac", ""),
                address=node.get("address", ""),
                name=node.get("name", ""),
                static=node.get("static") == "yes",
            )
            for node in root.findall(_TAG)
        )
