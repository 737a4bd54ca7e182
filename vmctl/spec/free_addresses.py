"""Addresses for guests that are given none: of their network, and nobody's yet."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

__all__ = ["free_addresses"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Of a large subnet there is no need to look at more.
_MOST = 1 << 16


def free_addresses(
    network: Network,
    ranges: Sequence[tuple[Address, Address]],
    taken: Collection[str],
    *,
    mac: str,
) -> Iterator[str]:
    """Return addresses that a guest can be given: of what any guest is given first, then others.

    Where among them it begins follows from the MAC address. So clients that choose at one time
    seldom choose the same, a NIC that comes again is likely to get the address that it had, and
    one that was just given up is not at once somebody else's.

    Args:
        network: The subnet.
        ranges: The first and the last address of what its DHCP server gives to any guest.
        taken: Addresses that others have, the host's own among them.
        mac: The NIC's MAC address.
    """
    first, last = int(network.network_address) + 1, int(network.broadcast_address)
    whole = (first, last - 1 if network.version == 4 else last)
    spans = [*((int(start), int(end)) for start, end in ranges), whole]
    seed = int.from_bytes(hashlib.sha256(mac.lower().encode()).digest()[:8], "big")
    seen = {int(ipaddress.ip_address(text)) for text in taken}
    base = network.network_address
    for start, end in spans:
        size = end - start + 1
        for step in islice(range(size), _MOST):
            number = start + (seed + step) % size
            if number not in seen:
                seen.add(number)
                yield str(base + (number - int(base)))
