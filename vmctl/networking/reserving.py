"""Addresses that are kept for a machine's NICs: chosen and checked beforehand, then reserved.

What is going to be reserved is in the machine's record before it is, so that a failure, or `gc`,
finds it. Who of several clients gets an address is decided by libvirt, when it takes the entry.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from vmctl.errors import ConflictError, SpecProblem
from vmctl.hypervisor import reservations
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.reservations import Served, Subnet
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.networking.taken import Neighbours, macs_in_use
from vmctl.spec import NicSpec, VMSpec
from vmctl.spec.free_addresses import free_addresses
from vmctl.spec.names import hostname_of
from vmctl.spec.problems import spec_error

__all__ = ["PlannedAddress", "only", "plan_addresses", "refuse_taken_macs", "reserve"]

_HINT = "leave it out, and vmctl chooses one that is free; or see `vmctl network info`"
# Others may take what was chosen, one after the other.
_TRIES = 64
# What dnsmasq takes for something else than a name (dnsmasq(8), --dhcp-host).
_NO_NAMES = frozenset({"ignore", "infinite"})


@dataclass(frozen=True, kw_only=True)
class PlannedAddress:
    """An address that is going to be reserved.

    Attributes:
        entry: It.
        index: Of which NIC of the spec.
        field: The field that asks for it.
        fixed: Whether it is this one or none.
    """

    entry: ReservedAddress
    index: int
    field: str
    fixed: bool


def refuse_taken_macs(
    connection: Connection, nics: Sequence[NicSpec], *, uuid: str = "", first: int = 0
) -> None:
    """Refuse MAC addresses that were given and that another machine has.

    Args:
        connection: The host.
        nics: The NICs as they were written.
        uuid: The machine that they are of, where it is there already.
        first: Which of its NICs the first of them is.

    Raises:
        SpecError: There is one.
    """
    if all(nic.mac is None for nic in nics):
        return
    taken = macs_in_use(connection, but=uuid)
    problems = [
        SpecProblem(f"nics[{index}].mac", f"{nic.mac} is that of the machine '{taken[nic.mac]}'")
        for index, nic in enumerate(nics, first)
        if nic.mac in taken
    ]
    if problems:
        raise spec_error(problems, hint="leave it out, or choose another one")


def plan_addresses(
    connection: Connection, spec: VMSpec, uuid: str, *, first: int = 0
) -> tuple[PlannedAddress, ...]:
    """Work out which addresses are reserved for a machine's NICs; nothing is reserved yet.

    Args:
        connection: The host.
        spec: The machine's spec, each NIC with its MAC address.
        uuid: The machine's.
        first: Its NICs before this one are left as they are.

    Raises:
        SpecError: An address lies outside its network, or is taken; or there is none left.
        NotFoundError: There is no such network.
    """
    planner = _Planner(connection, spec, uuid)
    for index, nic in enumerate(spec.nics[first:], first):
        if nic.network is not None:
            planner.add(index, nic, planner.neighbours.served(nic.network))
    if planner.problems:
        raise spec_error(planner.problems, hint=_HINT)
    return tuple(planner.planned)


@dataclass(frozen=True)
class _Nic:
    """A NIC that joins a network, and its place in the spec."""

    index: int
    spec: NicSpec
    served: Served

    @property
    def mac(self) -> str:
        return self.spec.mac or ""

    def field(self, name: str, number: int, of: int) -> str:
        """Return the path of an address in one of its fields."""
        return f"nics[{self.index}].{name}" + (f"[{number}]" if of > 1 else "")


class _Planner:
    def __init__(self, connection: Connection, spec: VMSpec, uuid: str) -> None:
        self.neighbours = Neighbours(connection, uuid)
        self.problems: list[SpecProblem] = []
        self.planned: list[PlannedAddress] = []
        self._name = _name_of(spec)

    def add(self, index: int, spec: NicSpec, served: Served) -> None:
        """Plan what one NIC needs, or note why it can't be."""
        nic = _Nic(index, spec, served)
        keeps = bool(spec.reserve) if spec.reserve is not None else served.made_by_vmctl
        for number, address in enumerate(spec.reserved):
            field = nic.field("reserve", number, len(spec.reserved))
            self._add_fixed(nic, address, field, static=False)
        for number, text in enumerate(spec.address):
            field = nic.field("address", number, len(spec.address))
            self._add_static(nic, text.partition("/")[0], field, keeps=keeps)
        if keeps and spec.wants_dhcp and not spec.reserved:
            self._add_chosen(nic)

    def _refuse(self, field: str, why: str) -> None:
        self.problems.append(SpecProblem(field, why))

    def _add_static(self, nic: _Nic, address: str, field: str, *, keeps: bool) -> None:
        version = ipaddress.ip_address(address).version
        # Of a family that the network does not speak itself, its guests may have what they like.
        if any(subnet.network.version == version for subnet in nic.served.subnets):
            self._add_fixed(nic, address, field, static=True, keeps=keeps)

    def _add_fixed(
        self, nic: _Nic, address: str, field: str, *, static: bool, keeps: bool = True
    ) -> None:
        subnet = nic.served.subnet_of(address)
        if subnet is None or _is_end(subnet, address):
            self._refuse(field, _outside(nic.served, address, inside=subnet is not None))
            return
        if not static and not subnet.serves_dhcp:
            self._refuse(field, _gives_none(nic.served))
            return
        taken = self.neighbours.why_taken(
            nic.served, subnet, address, mac=nic.mac, name=self._name, asks=not static
        )
        other = next((entry.address for entry in subnet.kept if entry.mac == nic.mac), address)
        if taken is None and other != address and not static:
            taken = f"the network '{nic.served.name}' keeps {other} for {nic.mac} already"
        if taken is not None:
            self._refuse(field, taken)
        elif keeps and subnet.serves_dhcp:
            self._plan(nic, subnet, address, field=field, fixed=True, static=static)

    def _add_chosen(self, nic: _Nic) -> None:
        field = nic.field("reserve", 0, 1)
        subnets = [subnet for subnet in nic.served.subnets if subnet.serves_dhcp]
        if not subnets and nic.spec.reserve:
            self._refuse(field, _gives_none(nic.served))
        for subnet in subnets:
            taken = self.neighbours.taken(nic.served, subnet, nic.mac)
            taken |= {planned.entry.address for planned in self.planned}
            free = free_addresses(subnet.network, subnet.ranges, taken, mac=nic.mac)
            address = next(free, None)
            if address is not None:
                self._plan(nic, subnet, address, field=field, fixed=False, static=False)
            else:
                where = f"the network '{nic.served.name}' has no address left"
                self._refuse(field, f"{where} in {subnet.network}")

    def _plan(
        self, nic: _Nic, subnet: Subnet, address: str, *, field: str, fixed: bool, static: bool
    ) -> None:
        network, version = nic.served.name, subnet.network.version
        # What the network keeps for the guest by itself is the network's.
        by_network = any(
            entry.mac == nic.mac if version == 4 else entry.name == self._name
            for entry in subnet.kept
        )
        # A NIC has one at the most, and one of IPv6 is kept by name.
        second = any(
            (other.entry.network, other.entry.mac, other.entry.version)
            == (network, nic.mac, version)
            for other in self.planned
        )
        name = self._free_name(nic.served, subnet)
        named_alike = version == 6 and all(
            (entry.name, entry.address) != (self._name, address) for entry in subnet.kept
        )
        if fixed and not static and not second and named_alike and (by_network or not name):
            self._refuse(field, _no_name_left(network, address, self._name))
        if by_network or second or (version == 6 and not name):
            return
        entry = ReservedAddress(
            network=network, mac=nic.mac, address=address, name=name, static=static
        )
        self.planned.append(PlannedAddress(entry=entry, index=nic.index, field=field, fixed=fixed))

    def _free_name(self, served: Served, subnet: Subnet) -> str:
        """Return the guest's name, unless another guest of the network has it."""
        taken = {entry.name.lower() for entry in subnet.kept}
        taken |= {name.partition(".")[0].lower() for name in served.dns_names or ()}
        taken |= {
            planned.entry.name
            for planned in self.planned
            if planned.entry.network == served.name
            and planned.entry.version == subnet.network.version
        }
        return "" if self._name in taken else self._name


def _no_name_left(network: str, address: str, name: str) -> str:
    known = "the DHCP server knows guests of IPv6 by their names"
    if not name:
        return f"{address} can't be kept: {known}, and this one's host name is none it takes"
    return f"{address} can't be kept: {known}, and '{network}' has another one that is '{name}'"


def _gives_none(served: Served) -> str:
    return f"the network '{served.name}' gives no such addresses to its guests"


def _outside(served: Served, address: str, *, inside: bool) -> str:
    if inside:
        return f"{address} is the network's own or its broadcast address"
    subnets = ", ".join(str(entry.network) for entry in served.subnets) or "no subnet"
    return f"{address} is not in the network '{served.name}', which has {subnets}"


def _name_of(spec: VMSpec) -> str:
    """Return the name by which other guests find a machine's; empty if it can have none."""
    given = spec.cloud_init.hostname if spec.cloud_init is not None else None
    name = (given or hostname_of(spec.name)).partition(".")[0].lower()
    # libvirt takes none that begins with a digit (virNetworkDHCPHostDefParseXML).
    return name if name[:1].isalpha() and name not in _NO_NAMES else ""


def _is_end(subnet: Subnet, address: str) -> bool:
    parsed, network = ipaddress.ip_address(address), subnet.network
    last = network.version == 4 and parsed == network.broadcast_address
    return last or parsed == network.network_address


def reserve(domain: Domain, spec: VMSpec, planned: Sequence[PlannedAddress]) -> None:
    """Reserve what was planned, each of it in the machine's record before.

    Where somebody was quicker, another address is chosen, unless it has to be that one.

    Args:
        domain: The machine, whose record lists what was planned.
        spec: Its spec.
        planned: That.

    Raises:
        SpecError: An address has been taken meanwhile.
        ConflictError: There is none to be had.
    """
    for wanted in planned:
        _reserve(domain, spec, wanted)


def _reserve(domain: Domain, spec: VMSpec, wanted: PlannedAddress) -> None:
    current = wanted
    for last in (*[False] * _TRIES, True):
        try:
            reservations.add(domain.connection, current.entry)
        except ConflictError:
            # It is not this machine's, and must not go with it.
            _rewrite(domain, current.entry, None)
            again = _anew(domain, spec, wanted)
            if last or again is None:
                raise
        else:
            return
        current = again
        _rewrite(domain, None, current.entry)


def _anew(domain: Domain, spec: VMSpec, wanted: PlannedAddress) -> PlannedAddress | None:
    """Plan the address anew, with what the network says now.

    Raises:
        SpecError: It has to be the one that somebody took.
    """
    alone = only(spec, {wanted.index})
    found = plan_addresses(domain.connection, alone, domain.uuid)
    version = wanted.entry.version
    fitting = (
        planned
        for planned in found
        if planned.entry.version == version and planned.entry.static == wanted.entry.static
        if not wanted.fixed or planned.entry.address == wanted.entry.address
    )
    again = next(islice(fitting, 1), None)
    return None if again is None else replace(again, index=wanted.index, field=wanted.field)


def only(spec: VMSpec, indices: Collection[int]) -> VMSpec:
    """Return the spec with no other NICs on networks than these, each at its own place."""
    nics = tuple(
        nic if number in indices else nic.model_copy(update={"network": None})
        for number, nic in enumerate(spec.nics)
    )
    return spec.model_copy(update={"nics": nics})


def _rewrite(domain: Domain, old: ReservedAddress | None, new: ReservedAddress | None) -> None:
    record = domain.record()
    if record is None:
        return
    rest = [entry for entry in record.addresses if entry != old]
    domain.update_record(addresses=(*rest, *([] if new is None else [new])))
