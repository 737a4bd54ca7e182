"""Addresses that a libvirt network keeps for a NIC: known before the guest asks for one."""

from __future__ import annotations

import ipaddress

from lxml import etree

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.networks import find
from vmctl.render.filter_names import eui64

__all__ = ["forward_mode", "kept_for", "leased_to"]

# What guests make an address of their own from (RFC 4862).
_SLAAC_PREFIX = 64
# Of these, libvirt makes the bridge.
_VIRTUAL = frozenset({"nat", "route", "open"})


def forward_mode(connection: Connection, network: str) -> str:
    """Return what a network does with what goes beyond it, by libvirt's word; empty for nothing.

    Three are no words of libvirt's: ``macvtap`` and ``hostdev``, whose guests have a device of the
    host's, and ``openvswitch``, whose frames no filter of the kernel's bridges sees. A NAT network
    that is none for IPv6 is of mode ``route``: into that subnet, the host routes.

    Raises:
        NotFoundError: There is no such network.
    """
    return _mode_of(_definition(connection, network))


def _mode_of(root: etree._Element) -> str:
    if any(node.get("type") == "openvswitch" for node in root.iter("virtualport")):
        return "openvswitch"
    forward = root.find("forward")
    if forward is None:
        return ""
    mode = forward.get("mode", "nat")
    if mode == "hostdev":
        return mode
    if root.find("bridge") is None and mode not in _VIRTUAL:
        return "macvtap"
    nat = forward.find("nat")
    if mode == "nat" and root.find("ip[@family='ipv6']") is not None:
        return mode if nat is not None and nat.get("ipv6") == "yes" else "route"
    return mode


def kept_for(connection: Connection, network: str, mac: str) -> tuple[str, ...]:
    """Return the addresses of a NIC that follow from its network.

    Those that are reserved for its MAC address, and those that its guest makes itself in an IPv6
    network where that is done.

    Raises:
        NotFoundError: There is no such network.
    """
    found = []
    for node in _definition(connection, network).iterfind("ip"):
        found += [
            host.get("ip", "")
            for host in node.iterfind("dhcp/host")
            if (host.get("mac") or "").lower() == mac and host.get("ip")
        ]
        if node.get("family") == "ipv6" and node.get("prefix") == str(_SLAAC_PREFIX):
            subnet = ipaddress.ip_interface(f"{node.get('address')}/{_SLAAC_PREFIX}").network
            found.append(eui64(mac, str(subnet)))
    return tuple(found)


def leased_to(connection: Connection, network: str, mac: str) -> tuple[str, ...]:
    """Return the addresses that the network's DHCP server gave to a NIC.

    Raises:
        NotFoundError: There is no such network.
    """
    with calling(f"ask for the leases of the network '{network}'"):
        raw = find(connection, network)
        leases = raw.DHCPLeases(mac) if raw.isActive() else []
    return tuple(lease["ipaddr"] for lease in leases)


def _definition(connection: Connection, network: str) -> etree._Element:
    with calling(f"ask for the network '{network}'"):
        return etree.fromstring(find(connection, network).XMLDesc(0))
