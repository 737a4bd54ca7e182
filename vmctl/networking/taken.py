"""Who has an address of a network: what each source knows of it, asked when it is needed."""

from __future__ import annotations

import ipaddress
from functools import cached_property

from lxml import etree

from vmctl.errors import NotFoundError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.names import list_domains
from vmctl.hypervisor.network_facts import Lease, leases_of
from vmctl.hypervisor.reservations import Kept, Served, Subnet, served_by

__all__ = ["Neighbours", "macs_in_use"]


def macs_in_use(connection: Connection, *, but: str = "") -> dict[str, str]:
    """Return MAC to the name of the machine that has it, whoever made that.

    Args:
        connection: The host.
        but: UUID of a machine that is left out.
    """
    found: dict[str, str] = {}
    for listed in list_domains(connection):
        if listed.domain.uuid == but:
            continue
        try:
            text = listed.domain.xml(inactive=True)
        except NotFoundError:
            # It went since it was listed.
            continue
        for node in etree.fromstring(text).iterfind("devices/interface/mac"):
            found[node.get("address", "").lower()] = listed.domain.name
    return found


class Neighbours:
    """Who else is on the networks of one machine; each source is asked once."""

    def __init__(self, connection: Connection, uuid: str) -> None:
        self._connection = connection
        self._uuid = uuid
        self._served: dict[str, Served] = {}
        self._leases: dict[str, list[Lease]] = {}

    def served(self, network: str) -> Served:
        """Return what a network does for its guests."""
        if network not in self._served:
            self._served[network] = served_by(self._connection, network)
        return self._served[network]

    def leases(self, network: str) -> list[Lease]:
        """Return what a network's DHCP server gave to guests."""
        if network not in self._leases:
            self._leases[network] = leases_of(self._connection, network)
        return self._leases[network]

    @cached_property
    def _claimed(self) -> dict[tuple[str, str], str]:
        """Return network and address to the machine whose record has it, static or reserved."""
        found: dict[tuple[str, str], str] = {}
        for listed in list_domains(self._connection):
            if listed.record is None or listed.domain.uuid == self._uuid:
                continue
            name = listed.domain.name
            for entry in listed.record.addresses:
                found[entry.network, entry.address] = name
            for nic in listed.record.spec.get("nics") or ():
                given = nic.get("address") or []
                for text in [given] if isinstance(given, str) else given:
                    found[nic.get("network") or "", text.partition("/")[0]] = name
        return found

    @cached_property
    def _macs(self) -> dict[str, str]:
        return macs_in_use(self._connection, but=self._uuid)

    def taken(self, served: Served, subnet: Subnet, mac: str) -> set[str]:
        """Return all addresses of a subnet that somebody else than this NIC has."""
        found = {str(subnet.host), *(entry.address for entry in subnet.kept if entry.mac != mac)}
        found |= {address for network, address in self._claimed if network == served.name}
        found |= {lease.address for lease in self.leases(served.name) if lease.mac != mac}
        return found

    def why_taken(
        self, served: Served, subnet: Subnet, address: str, *, mac: str, name: str, asks: bool
    ) -> str | None:
        """Say why a NIC can't have an address; None if it can.

        Args:
            served: Its network.
            subnet: The subnet that the address lies in.
            address: That.
            mac: The NIC's MAC address.
            name: The guest's name.
            asks: Whether the guest asks the DHCP server for it, which gives it to nobody else as
                long as somebody has it by a lease, be it that he is gone.
        """
        if ipaddress.ip_address(address) == subnet.host:
            return f"{address} is the host's own on the network '{served.name}'"
        owner = self._claimed.get((served.name, address))
        if owner is not None:
            return f"{address} is that of the machine '{owner}' already"
        for entry in subnet.kept:
            if entry.address == address and not _is_of(entry, mac, name):
                return f"{address} is kept for {entry.mac or entry.name} on '{served.name}' already"
        for lease in self.leases(served.name):
            if lease.address != address or lease.mac == mac:
                continue
            holder = self._macs.get(lease.mac)
            if holder is not None:
                return f"{address} is leased to the machine '{holder}'"
            if asks:
                return f"{address} is leased to {lease.mac}, which no machine has any more"
        return None


def _is_of(entry: Kept, mac: str, name: str) -> bool:
    return entry.mac == mac if entry.mac else entry.name == name
