"""What is known of libvirt's networks: how they are defined, who is on them, who has an address."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import libvirt
from lxml import etree

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.network_owners import read_owner
from vmctl.hypervisor.networks import find, next_definition

__all__ = ["Lease", "NetworkFacts", "facts_of", "leases_of", "list_facts", "served", "subnets_of"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """A network.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        mode: libvirt's forward mode: ``nat``, ``route``, ``open``, ``bridge`` ...; ``isolated``
            where there is none, and ``macvtap`` for those of a device of the host.
        state: ``active`` or ``inactive``.
        autostart: Whether it starts together with its host.
        persistent: Whether libvirt keeps its definition.
        made_by_vmctl: Whether vmctl made it.
        tenant: Whose it is; empty for nobody's.
        shared: Whether machines of any tenant may join it.
        bridge: Its bridge, or the device of the host that it is on; empty for none.
        domain: Its DNS domain; empty for none.
        mtu: The largest packet in bytes, where that is set; 0 where it is not.
        subnets: Its subnets, each with its prefix length.
        dhcp: The addresses that are given out, ``FIRST-LAST`` each.
        machines: Who is on it, running or not, sorted by name.
    """

    name: str
    uuid: str
    mode: str
    state: str
    autostart: bool
    persistent: bool
    made_by_vmctl: bool
    tenant: str
    shared: bool
    bridge: str
    domain: str
    mtu: int
    subnets: tuple[str, ...]
    dhcp: tuple[str, ...]
    machines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Lease:
    """An address that a guest was given.

    Attributes:
        address: Which.
        mac: To which NIC.
        name: The name that the guest gave; empty for none.
        expires: When it ends, in seconds since 1970.
    """

    address: str
    mac: str
    name: str
    expires: int


def facts_of(connection: Connection, name: str) -> NetworkFacts:
    """Return all that is known of a network.

    Raises:
        NotFoundError: There is none of that name.
    """
    raw = find(connection, name)
    guests = _guests(connection)
    with calling(f"ask for the network '{name}'"):
        return _read(raw, guests)


def list_facts(connection: Connection) -> list[NetworkFacts]:
    """Return every network, sorted by name."""
    guests = _guests(connection)
    found = _of_each(connection, lambda raw: _read(raw, guests))
    return sorted(found, key=lambda facts: facts.name)


def subnets_of(connection: Connection) -> dict[str, tuple[str, ...]]:
    """Return the subnets of every network, by its name, without a look at the machines."""
    return dict(
        _of_each(connection, lambda raw: (raw.name(), _subnets(etree.fromstring(raw.XMLDesc(0)))))
    )


def _of_each(connection: Connection, read: Callable[[Any], T]) -> list[T]:
    """Return what is read of each network; one that goes meanwhile is left out."""
    found = []
    with calling("list the networks"):
        for raw in connection.raw.listAllNetworks(0):
            try:
                found.append(read(raw))
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_NO_NETWORK):
                    raise
    return found


def leases_of(connection: Connection, name: str) -> list[Lease]:
    """Return the addresses that guests of a network were given, in their order; none if it is off.

    Raises:
        NotFoundError: There is none of that name.
    """
    raw = find(connection, name)
    with calling(f"ask for the leases of the network '{name}'"):
        try:
            entries = raw.DHCPLeases() if raw.isActive() else []
        except libvirt.libvirtError as error:
            # libvirt's test driver gives none.
            if not is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
                raise
            entries = []
    found = [
        Lease(
            address=entry["ipaddr"],
            mac=(entry["mac"] or "").lower(),
            name=entry["hostname"] or "",
            expires=entry["expirytime"],
        )
        for entry in entries
    ]
    return sorted(found, key=lambda lease: _order(lease.address))


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a network is to one NIC.

    Attributes:
        mode: As of `NetworkFacts`.
        subnets: Its IPv4 subnets.
        reserved: The IPv4 addresses that this NIC is always given.
    """

    mode: str
    subnets: tuple[str, ...]
    reserved: tuple[str, ...]


def served(connection: Connection, name: str, *, mac: str = "") -> Served:
    """Return what a network is to one NIC, without a look at the machines.

    Raises:
        NotFoundError: There is no such network.
    """
    raw = find(connection, name)
    with calling(f"ask for the network '{name}'"):
        root = etree.fromstring(raw.XMLDesc(0))
    return Served(
        mode=_mode(root),
        subnets=tuple(subnet for subnet in _subnets(root) if "." in subnet),
        reserved=tuple(
            node.get("ip", "")
            for node in root.iterfind("ip/dhcp/host")
            if (node.get("mac") or "").lower() == mac and "." in (node.get("ip") or "")
        ),
    )


def _order(address: str) -> tuple[int, int]:
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)


def _guests(connection: Connection) -> dict[str, set[str]]:
    """Return the names of the machines on each network, by its name."""
    found: dict[str, set[str]] = defaultdict(set)
    with calling("look which machines are on which network"):
        for domain in connection.raw.listAllDomains(0):
            with suppress(libvirt.libvirtError):
                for text in _definitions(domain):
                    for source in etree.fromstring(text).iterfind("devices/interface/source"):
                        if source.get("network") is not None:
                            found[source.get("network", "")].add(domain.name())
    return found


def _definitions(domain: Any) -> list[str]:
    """Return how it runs and how it starts next; a machine that went meanwhile has neither."""
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE
    return [domain.XMLDesc(0), domain.XMLDesc(flags)] if domain.isActive() else [domain.XMLDesc(0)]


def _read(raw: Any, guests: dict[str, set[str]]) -> NetworkFacts:
    root = etree.fromstring(raw.XMLDesc(0))
    persistent = bool(raw.isPersistent())
    mtu = root.find("mtu")
    domain = root.find("domain")
    owner = read_owner(root, next_definition(raw))
    return NetworkFacts(
        name=raw.name(),
        uuid=raw.UUIDString(),
        mode=_mode(root),
        state="active" if raw.isActive() else "inactive",
        # One that libvirt doesn't keep can't be asked for it.
        autostart=persistent and bool(raw.autostart()),
        persistent=persistent,
        made_by_vmctl=owner.made_by_vmctl,
        tenant=owner.tenant,
        shared=owner.shared,
        bridge=_bridge(root),
        domain="" if domain is None else domain.get("name", ""),
        mtu=0 if mtu is None else int(mtu.get("size", "0")),
        subnets=_subnets(root),
        dhcp=tuple(
            f"{node.get('start')}-{node.get('end')}" for node in root.iterfind("ip/dhcp/range")
        ),
        machines=tuple(sorted(guests.get(raw.name(), ()))),
    )


def _subnets(root: etree._Element) -> tuple[str, ...]:
    return tuple(
        str(ipaddress.ip_interface(f"{node.get('address')}/{_prefix(node)}").network)
        for node in root.iterfind("ip")
        if node.get("address")
    )


def _prefix(node: etree._Element) -> str:
    whole = "128" if node.get("family") == "ipv6" else "32"
    return node.get("prefix") or node.get("netmask") or whole


def _mode(root: etree._Element) -> str:
    forward = root.find("forward")
    if forward is None:
        return "isolated"
    macvtap = root.find("bridge") is None and root.find("forward/interface") is not None
    return "macvtap" if macvtap else forward.get("mode", "nat")


def _bridge(root: etree._Element) -> str:
    bridge = root.find("bridge")
    device = root.find("forward/interface")
    if bridge is not None:
        return bridge.get("name", "")
    return "" if device is None else device.get("dev", "")
