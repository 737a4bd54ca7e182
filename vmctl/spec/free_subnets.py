"""Subnets for networks that name none: private ones that nothing known has."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

__all__ = ["free_ipv4", "overlapping", "unique_local"]

# A part of RFC 1918's space that neither libvirt's own network nor common home routers, container
# engines or Kubernetes take by default.
_SPACE = ipaddress.IPv4Network("10.160.0.0/11")
_PREFIX = 24


def free_ipv4(taken: Iterable[str], *, start: int) -> Iterator[str]:
    """Return IPv4 subnets of 254 hosts that overlap none of those taken.

    Args:
        taken: Subnets with their prefix lengths, of either family.
        start: A number; where among them it begins. Clients that choose at one time better begin
            at different ones.
    """
    known = [ipaddress.ip_network(text) for text in taken]
    others = [network for network in known if network.version == 4]
    count = 1 << (_PREFIX - _SPACE.prefixlen)
    step = 1 << (32 - _PREFIX)
    for index in range(count):
        address = _SPACE.network_address + (start + index) % count * step
        network = ipaddress.IPv4Network((address, _PREFIX))
        if not any(network.overlaps(other) for other in others):
            yield str(network)


def unique_local(number: int) -> str:
    """Return a unique local IPv6 subnet (RFC 4193, 3.2).

    Args:
        number: Its global ID, of 40 random bits.
    """
    return str(ipaddress.IPv6Network(((0xFD << 120) | (number & ((1 << 40) - 1)) << 80, 64)))


def overlapping(subnet: str, others: dict[str, tuple[str, ...]]) -> str | None:
    """Return the name of a network that has some of a subnet's addresses; None for none."""
    wanted = ipaddress.ip_network(subnet)
    for name, subnets in others.items():
        for other in map(ipaddress.ip_network, subnets):
            if other.version == wanted.version and wanted.overlaps(other):
                return name
    return None
