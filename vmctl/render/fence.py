"""Where a tenant's guest may not go, as lists of subnets for a packet filter."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, TypeAlias

from vmctl.spec.fence import FenceSpec

__all__ = ["fence_values"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# What no packet on the way to the world is for: RFC 6890 and, for 100.64/10, RFC 6598. A host's own
# services, and other networks of it, are at such addresses; so are those of clouds (169.254/16).
_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "224.0.0.0/3",  # several at once, and all
            "::/127",  # nobody, and oneself
            "fc00::/7",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
        ),
    )
)
_LINK = ipaddress.ip_network("fe80::/10")
_GROUPS = ipaddress.ip_network("ff00::/8")


def fence_values(fence: FenceSpec) -> dict[str, Any]:
    """Return what the filter's template is given.

    ``own`` are the host's addresses on the network, ``kept`` what else is out of reach, ``link``
    whom IPv6's own messages are for; each with the prefix length that libvirt wants of it.
    """
    subnets = [ipaddress.ip_network(text) for text in fence.subnets]
    own = [ipaddress.ip_network(text) for text in fence.gateways]
    # All of a subnet's guests, and any router on it, are the host as well.
    own += [_single(net.network_address) for net in subnets]
    own += [_single(net.broadcast_address) for net in subnets if net.version == 4]
    kept = [*_PRIVATE, *map(ipaddress.ip_network, fence.keep_from)]
    free = [ipaddress.ip_network(text) for text in fence.reach]
    if fence.neighbours:
        free += [*subnets, _LINK]
    else:
        kept += subnets
    gates = [ipaddress.ip_network(text) for text in fence.gateways]
    link = [_LINK, _GROUPS, *gates, *(subnets if fence.neighbours else ())]
    return {
        "link": _listed(net for net in link if net.version == 6),
        "gateways": _listed(gates),
        "own": _listed(own),
        "kept": _listed(_without(kept, free)),
    }


def _single(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Network:
    return ipaddress.ip_network(address)


def _without(kept: Iterable[Network], free: Iterable[Network]) -> list[Network]:
    """Return the subnets with others cut out of them."""
    found = list(kept)
    for hole in free:
        cut: list[Network] = []
        for net in found:
            if net.version != hole.version or not net.overlaps(hole):
                cut.append(net)
            elif net.prefixlen < hole.prefixlen:
                cut += net.address_exclude(hole)  # type: ignore[arg-type]
        found = cut
    return found


def _listed(networks: Iterable[Network]) -> list[dict[str, Any]]:
    unique = dict.fromkeys(networks)
    return [
        {"address": str(net.network_address), "prefix": net.prefixlen, "version": net.version}
        for net in sorted(unique, key=lambda net: (net.version, int(net.network_address), net))
    ]
