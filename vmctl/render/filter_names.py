"""What packet filters are called, and the address that a NIC makes for itself."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

__all__ = ["GROUP_PREFIX", "PREFIX", "FilterDocument", "eui64", "group_filter_name"]

PREFIX = "vmctl-"
"""What the names of all of vmctl's filters begin with; nobody else's do."""

GROUP_PREFIX = "vmctl-group-"
"""What those of security groups begin with."""

_LINK_LOCAL = "fe80::/64"


@dataclass(frozen=True)
class FilterDocument:
    """A filter: its name, and its XML."""

    name: str
    xml: str


def group_filter_name(group: str) -> str:
    """Return what the filter of a security group is called."""
    return GROUP_PREFIX + group


def eui64(mac: str, network: str = _LINK_LOCAL) -> str:
    """Return the address that a NIC makes for itself in an IPv6 network (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    interface = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    prefix = ipaddress.IPv6Network(network).network_address
    return str(prefix + int.from_bytes(interface))
