"""A network's subnet: its addresses, and who is given which."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from vmctl.errors import SpecProblem
from vmctl.spec.addresses import IpAddress, MacAddress, SubnetOrAuto
from vmctl.spec.base import SpecModel
from vmctl.spec.names import HostName

__all__ = ["ChosenSubnet", "DhcpRange", "ReservationSpec", "SubnetSpec"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# What guests make an address of their own from (RFC 4862), where none is given to them.
_SLAAC_PREFIX = 64
# libvirt takes no larger range, and for IPv6 none whose ends differ in more than 16 bits
# (virSocketAddrGetRange).
_RANGE_BITS = 0xFFFF


class DhcpRange(SpecModel):
    """The addresses that are given to guests without a reservation."""

    start: IpAddress
    """The first."""
    end: IpAddress
    """The last."""


class ReservationSpec(SpecModel):
    """An address that one guest is always given."""

    address: IpAddress
    """Which."""
    mac: MacAddress | None = None
    """Whose: the NIC's own address; of IPv4 only."""
    name: HostName | None = None
    """The name it is given, and for IPv6 is known by."""


@dataclass(frozen=True, kw_only=True)
class ChosenSubnet:
    """A subnet, and what follows from what is written of it.

    Attributes:
        network: Its addresses.
        host: The host's address in it.
        serves_dhcp: Whether guests are given addresses.
        given_out: The first and the last that guests without a reservation are given; None for
            none.
    """

    network: Network
    host: Address
    serves_dhcp: bool
    given_out: tuple[Address, Address] | None


class SubnetSpec(SpecModel):
    """The addresses of a network, of IPv4 or of IPv6."""

    short_form = "subnet"

    subnet: SubnetOrAuto
    """Its addresses (`192.0.2.0/24`), or `auto`: some that nothing on the host has."""
    gateway: IpAddress | None = None
    """The host's address in it; the first when it is not given."""
    dhcp: bool | None = None
    """Whether guests are given addresses; true for IPv4, and for IPv6 where there is a range or a
    reservation: else guests make addresses of their own (SLAAC)."""
    range: DhcpRange | None = None
    """What is given to guests without a reservation; all that is free when it is not given."""
    reservations: tuple[ReservationSpec, ...] = ()
    """Addresses that one guest each is always given."""

    @property
    def network(self) -> Network | None:
        """Its addresses; None where they are still to be chosen."""
        return None if self.subnet == "auto" else ipaddress.ip_network(self.subnet)

    @property
    def version(self) -> int | None:
        """4 or 6; None where it is still to be chosen."""
        return None if self.network is None else self.network.version

    @property
    def chosen(self) -> ChosenSubnet | None:
        """What follows from it once it is chosen; None until then."""
        network = self.network
        if network is None:
            return None
        host = network.network_address + 1
        if self.gateway is not None:
            host = ipaddress.ip_address(self.gateway)
        serves = self.dhcp
        if serves is None:
            written = self.range is not None or bool(self.reservations)
            serves = network.version == 4 or written
        given_out = None
        if self.range is not None:
            start, end = self.range.start, self.range.end
            given_out = (ipaddress.ip_address(start), ipaddress.ip_address(end))
        elif serves:
            given_out = _largest_part(network, host)
        return ChosenSubnet(network=network, host=host, serves_dhcp=serves, given_out=given_out)

    def _problems(self) -> list[SpecProblem]:
        if self.dhcp is False and (self.range is not None or self.reservations):
            path = "range" if self.range is not None else "reservations"
            return [SpecProblem(path, "needs DHCP; leave it out, or `dhcp: false`")]
        chosen = self.chosen
        if chosen is None:
            given = [name for name in ("gateway", "range", "reservations") if getattr(self, name)]
            return [
                SpecProblem(name, "needs a subnet that is given; `auto` is chosen later")
                for name in given
            ]
        problems = _of_subnet(chosen.network, dhcp=chosen.serves_dhcp)
        if problems:
            return problems
        return [*self._of_addresses(chosen), *self._of_reservations(chosen)]

    def _of_addresses(self, chosen: ChosenSubnet) -> list[SpecProblem]:
        network = chosen.network
        problems = []
        if self.gateway is not None:
            problems += _outside(network, self.gateway, "gateway")
        if self.range is None:
            return problems
        start, end = map(ipaddress.ip_address, (self.range.start, self.range.end))
        of_range = _outside(network, self.range.start, "range.start")
        of_range += _outside(network, self.range.end, "range.end")
        if not of_range and int(start) > int(end):
            of_range.append(SpecProblem("range.end", f"{end} comes before {start}"))
        elif not of_range and int(start) <= int(chosen.host) <= int(end):
            of_range.append(SpecProblem("range", f"{chosen.host} is in it, which is the host's"))
        return [*problems, *of_range]

    def _of_reservations(self, chosen: ChosenSubnet) -> list[SpecProblem]:
        network = chosen.network
        problems = []
        seen: dict[str, int] = {}
        for index, entry in enumerate(self.reservations):
            path = f"reservations[{index}]"
            outside = _outside(network, entry.address, f"{path}.address")
            problems += outside
            first = seen.setdefault(entry.address, index)
            if first != index:
                problems.append(
                    SpecProblem(f"{path}.address", f"{entry.address} is that of [{first}] already")
                )
            elif not outside and ipaddress.ip_address(entry.address) == chosen.host:
                problems.append(SpecProblem(f"{path}.address", "is the host's own"))
            if network.version == 6 and entry.mac is not None:
                problems.append(
                    SpecProblem(f"{path}.mac", "DHCP of IPv6 knows guests by name, not by MAC")
                )
            needed = "mac" if network.version == 4 else "name"
            if getattr(entry, needed) is None:
                problems.append(SpecProblem(path, f"needs the guest's {needed}"))
        return problems


def _of_subnet(network: Network, *, dhcp: bool) -> list[SpecProblem]:
    longest = network.max_prefixlen - 2
    if network.is_multicast or network.is_loopback or network.is_unspecified:
        return [SpecProblem("subnet", f"{network} is not for hosts")]
    if network.prefixlen == 0 or network.prefixlen > longest:
        return [SpecProblem("subnet", f"{network} needs a prefix of 1 to {longest} bits")]
    if network.version == 6 and not dhcp and network.prefixlen != _SLAAC_PREFIX:
        return [
            SpecProblem(
                "subnet",
                f"{network} needs a prefix of {_SLAAC_PREFIX} bits, or DHCP: `dhcp: true`",
            )
        ]
    return []


def _largest_part(network: Network, host: Address) -> tuple[Address, Address] | None:
    """Return the larger part of the addresses on both sides of the host's."""
    first, last = (int(end) for end in _usable(network))
    parts = [(first, int(host) - 1), (int(host) + 1, last)]
    start, end = max(parts, key=lambda part: part[1] - part[0])
    if end < start:
        return None
    base = network.network_address
    offset = start - int(base)
    longest = _RANGE_BITS if network.version == 4 else _RANGE_BITS - (start & _RANGE_BITS)
    return base + offset, base + offset + min(end - start, longest)


def _usable(network: Network) -> tuple[Address, Address]:
    """Return the first and the last address that a host may have."""
    last = network.broadcast_address - (1 if network.version == 4 else 0)
    return network.network_address + 1, last


def _outside(network: Network, text: str, path: str) -> list[SpecProblem]:
    address = ipaddress.ip_address(text)
    if address not in network:
        return [SpecProblem(path, f"{text} is not in {network}")]
    first, last = _usable(network)
    if not int(first) <= int(address) <= int(last):
        return [SpecProblem(path, f"{text} is the network's own or its broadcast address")]
    return []
