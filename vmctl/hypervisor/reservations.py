"""What networks keep for guests: read, added and taken back, one entry at a time.

libvirt refuses a DHCP entry whose address, MAC address or name another one of the same subnet has,
under the lock of that network (virNetworkDefUpdateIPDHCPHost). So to add one is the atomic step
that gives an address to one of several clients. It does not look whether the address lies in the
subnet, nor for names that its DNS server has twice: callers do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import ConflictError, NotFoundError, UsageError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.metadata import Phase
from vmctl.hypervisor.names import list_domains
from vmctl.hypervisor.networks import find
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.render.network_record import recorded_spec

__all__ = ["Kept", "Served", "Subnet", "add", "read_kept", "release", "remove", "served_by"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = re.compile(r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NOW = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
_LATER = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
_ADD = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
_HOST = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
_DNS = libvirt.VIR_NETWORK_SECTION_DNS_HOST


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An address that a network keeps for a guest, whoever told it so.

    Attributes:
        address: Which.
        mac: For which NIC; empty for IPv6, where guests are known by their names.
        name: The guest's name; empty for none.
    """

    address: str
    mac: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """A subnet of a network.

    Attributes:
        index: Its place among the network's subnets, from 0.
        network: Its addresses.
        host: The host's address in it.
        serves_dhcp: Whether guests are given addresses.
        ranges: The first and the last of those that any guest is given.
        kept: Those that are kept for one.
    """

    index: int
    network: Network
    host: Address
    serves_dhcp: bool
    ranges: tuple[tuple[Address, Address], ...]
    kept: tuple[Kept, ...]


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a network does for its guests.

    Attributes:
        name: Its name.
        made_by_vmctl: Whether vmctl made it.
        domain: Its DNS domain; empty for none.
        dns_names: The names that its DNS server has of its own; None where it has no such server.
        subnets: Its subnets.
    """

    name: str
    made_by_vmctl: bool
    domain: str
    dns_names: frozenset[str] | None
    subnets: tuple[Subnet, ...]

    def subnet_of(self, address: str) -> Subnet | None:
        """Return the subnet that an address lies in."""
        parsed = ipaddress.ip_address(address)
        return next((subnet for subnet in self.subnets if parsed in subnet.network), None)


def served_by(connection: Connection, name: str) -> Served:
    """Return what a network does for its guests, as it runs, or else as it starts.

    Raises:
        NotFoundError: There is none of that name.
    """
    raw = find(connection, name)
    with calling(f"ask for the network '{name}'"):
        (_flag, now), *later = _definitions(raw)
    served = _read(now)
    # What only one of the two has is taken as well: an address is kept in both, or not at all.
    more = {subnet.index: subnet.kept for _flag, root in later for subnet in _subnets(root)}
    return replace(
        served,
        subnets=tuple(
            replace(subnet, kept=tuple(dict.fromkeys((*subnet.kept, *more.get(subnet.index, ())))))
            for subnet in served.subnets
        ),
    )


def read_kept(connection: Connection) -> dict[str, list[str]]:
    """Return MAC to the addresses that networks keep for it: a call for each network."""
    found: dict[str, list[str]] = {}
    without = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_NO_CONNECT)
    with calling("ask for the networks"):
        try:
            networks = connection.raw.listAllNetworks(0)
        except libvirt.libvirtError as error:
            if is_code(error, *without):
                return {}
            raise
        for raw in networks:
            # Somebody may have removed it since.
            with suppress(libvirt.libvirtError):
                for node in etree.fromstring(raw.XMLDesc(0)).iterfind("ip/dhcp/host[@mac][@ip]"):
                    mac = node.get("mac", "").lower()
                    found.setdefault(mac, []).append(node.get("ip", ""))
    return found


def _read(root: etree._Element) -> Served:
    domain, dns = root.find("domain"), root.find("dns")
    off = dns is not None and dns.get("enable") == "no"
    return Served(
        name=root.findtext("name") or "",
        made_by_vmctl=recorded_spec(root) is not None,
        domain="" if domain is None else domain.get("name", ""),
        dns_names=None
        if off
        else frozenset(node.text or "" for node in root.iterfind("dns/host/hostname")),
        subnets=tuple(_subnets(root)),
    )


def _subnets(root: etree._Element) -> Iterator[Subnet]:
    for index, node in enumerate(root.iterfind("ip")):
        address = node.get("address")
        if not address:
            continue
        whole = "128" if node.get("family") == "ipv6" else "32"
        prefix = node.get("prefix") or node.get("netmask") or whole
        interface = ipaddress.ip_interface(f"{address}/{prefix}")
        dhcp = node.find("dhcp")
        yield Subnet(
            index=index,
            network=interface.network,
            host=interface.ip,
            serves_dhcp=dhcp is not None,
            ranges=tuple(
                (
                    ipaddress.ip_address(entry.get("start", "")),
                    ipaddress.ip_address(entry.get("end", "")),
                )
                for entry in node.iterfind("dhcp/range")
            ),
            kept=tuple(
                Kept(
                    address=str(ipaddress.ip_address(entry.get("ip", ""))),
                    mac=entry.get("mac", "").lower(),
                    name=entry.get("name", ""),
                )
                for entry in node.iterfind("dhcp/host[@ip]")
            ),
        )


def add(connection: Connection, wanted: ReservedAddress) -> None:
    """Let a network keep an address for a NIC, from now on and at its later starts.

    Raises:
        NotFoundError: There is no such network, or it has no subnet with the address any more.
        ConflictError: Another guest has the address, the MAC address or the name there.
        UsageError: That is no name of a host.
    """
    if wanted.name and _LABEL.fullmatch(wanted.name) is None:
        # libvirt writes it into its own files, and its XML, as it is (virNetworkIPDefFormat).
        raise UsageError(
            f"{wanted.name[:70]!r} can't be a guest's name on a network",
            hint="use letters, digits and '-', the first a letter",
        )
    raw = find(connection, wanted.network)
    with calling(f"reserve {wanted}"):
        index = _index_of(raw, wanted)
        _update(raw, _HOST, index, _entry(wanted))
        if raw.isActive() and _place_of(etree.fromstring(raw.XMLDesc(0)), wanted) is None:
            # It was started in the very moment, without it.
            raw.update(_ADD, _HOST, index, _entry(wanted), _NOW)
        if _has_dns_entry(wanted):
            try:
                _update(raw, _DNS, -1, _dns_entry(wanted))
            except ConflictError:
                remove(connection, wanted)
                raise


def _index_of(raw: Any, wanted: ReservedAddress) -> int:
    subnet = _read(etree.fromstring(raw.XMLDesc(0))).subnet_of(wanted.address)
    if subnet is None:
        raise NotFoundError(
            f"the network '{wanted.network}' has no subnet with {wanted.address} any more",
            hint=f"see what it has: `vmctl network info {wanted.network}`",
        )
    return subnet.index


def _update(raw: Any, section: int, index: int, xml: str) -> None:
    """Add an entry to the running network and to its definition in one step.

    Raises:
        ConflictError: It has another entry that collides with this one.
    """
    # It may be started, or stopped, in the very moment.
    for last in (False, False, True):
        active = raw.isActive()
        flags = (_NOW if active else 0) | (_LATER if raw.isPersistent() else 0)
        try:
            raw.update(_ADD, section, index, xml, flags)
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
                raise
            if active == raw.isActive() or last:
                raise ConflictError(
                    f"the network '{raw.name()}' does not take this reservation",
                    details=error.get_error_message() or "",
                    hint="somebody was quicker: choose another address, or leave it out",
                ) from error
        else:
            return


def remove(connection: Connection, kept: ReservedAddress) -> None:
    """Let a network not keep an address any more; what another NIC has is left alone.

    One that is not kept, or whose network is gone, is so already.
    """
    with suppress(NotFoundError), calling(f"free {kept}"):
        raw = find(connection, kept.network)
        for flags, _root in _definitions(raw):
            # By the DHCP entry is known whether the other one is this machine's: it goes last.
            if _has_dns_entry(kept):
                _drop(raw, _DNS, _dns_entry(kept), flags, lambda root: _dns_place(root, kept))
            _drop(raw, _HOST, _entry(kept), flags, lambda root: _place_of(root, kept))


def release(domain: Domain, kept: ReservedAddress) -> None:
    """Let a network not keep an address for a machine any more, unless it is another machine's.

    The MAC address of a NIC follows from an address that it is to have (`with_macs`). So two that
    want the same have the same entry in their records, until the one that was too late knows it.
    """
    for other in list_domains(domain.connection):
        if other.domain.uuid == domain.uuid or other.record is None:
            continue
        # Of two that go at one time, both free it.
        if other.record.phase is not Phase.DELETING and any(
            (entry.network, entry.address) == (kept.network, kept.address)
            for entry in other.record.addresses
        ):
            return
    remove(domain.connection, kept)


def _drop(
    raw: Any, section: int, xml: str, flags: int, place: Callable[[etree._Element], int | None]
) -> None:
    index = _where(raw, flags, place)
    if index is None:
        return
    try:
        raw.update(libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, section, index, xml, flags)
    except libvirt.libvirtError:
        # It went, or the network was stopped, since it was looked at.
        if _where(raw, flags, place) is not None:
            raise


def _where(raw: Any, flags: int, place: Callable[[etree._Element], int | None]) -> int | None:
    return next((place(root) for flag, root in _definitions(raw) if flag == flags), None)


def _definitions(raw: Any) -> list[tuple[int, etree._Element]]:
    """Return the network as it runs, and as it starts, with the flag for each."""
    found = []
    if raw.isActive():
        found.append((_NOW, etree.fromstring(raw.XMLDesc(0))))
    if raw.isPersistent():
        try:
            text = raw.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
        except libvirt.libvirtError as error:
            # libvirt's test driver has but one of the two.
            if not is_code(error, libvirt.VIR_ERR_INVALID_ARG):
                raise
            text = raw.XMLDesc(0)
        found.append((_LATER, etree.fromstring(text)))
    return found


def _place_of(root: etree._Element, kept: ReservedAddress) -> int | None:
    """Return the index of the subnet in which a network keeps it; None if it does not."""
    for subnet in _subnets(root):
        for entry in subnet.kept:
            mac = kept.mac if kept.version == 4 else ""
            if (entry.mac, entry.name, entry.address) == (mac, kept.name, kept.address):
                return subnet.index
    return None


def _has_dns_entry(kept: ReservedAddress) -> bool:
    # libvirt takes entries for addresses of both families with one name, and then removes neither.
    return kept.static and bool(kept.name) and kept.version == 4


def _dns_place(root: etree._Element, kept: ReservedAddress) -> int | None:
    """Return -1 if a network's DNS server has its name; its subnets don't matter there."""
    if _place_of(root, kept) is None:
        return None
    hosts = (node for node in root.iterfind("dns/host") if node.get("ip") == kept.address)
    names = {name.text for node in hosts for name in node.iterfind("hostname")}
    return -1 if kept.name in names else None


def _entry(kept: ReservedAddress) -> str:
    given = {"mac": kept.mac, "name": kept.name, "ip": kept.address}
    if kept.version == 6:
        # DHCPv6 knows a guest by the name that it says, or by a DUID, which it makes up itself.
        del given["mac"]
    node = etree.Element("host", {key: value for key, value in given.items() if value})
    return etree.tostring(node, encoding="unicode")


def _dns_entry(kept: ReservedAddress) -> str:
    node = etree.Element("host", ip=kept.address)
    etree.SubElement(node, "hostname").text = kept.name
    return etree.tostring(node, encoding="unicode")
