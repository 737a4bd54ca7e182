"""What a network keeps for guests: for machines of vmctl's, by its own spec, and by others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.names import list_domains
from vmctl.hypervisor.reservations import served_by
from vmctl.hypervisor.reserved_addresses import ReservedAddress

__all__ = ["NetworkReservation", "kept_for_machines", "reservations_of"]


@dataclass(frozen=True, kw_only=True)
class NetworkReservation:
    """An address that a network keeps for a guest, whoever told it so.

    Attributes:
        address: Which.
        mac: For which NIC; empty for IPv6, where guests are known by their names.
        name: The guest's name; empty for none.
        machine: The machine that has it; empty for one of the network's own spec, or of others.
    """

    address: str
    mac: str
    name: str
    machine: str


def reservations_of(connection: Connection, name: str) -> Sequence[NetworkReservation]:
    """Return the addresses that a network keeps for guests, in their order.

    Raises:
        NotFoundError: There is none of that name.
    """
    served = served_by(connection, name)
    owners = {entry.address: machine for machine, entry in kept_for_machines(connection, name)}
    return [
        NetworkReservation(
            address=kept.address,
            mac=kept.mac,
            name=kept.name,
            machine=owners.get(kept.address, ""),
        )
        for subnet in served.subnets
        for kept in sorted(subnet.kept, key=lambda kept: int(ip_address(kept.address)))
    ]


def kept_for_machines(connection: Connection, name: str) -> Iterator[tuple[str, ReservedAddress]]:
    """Return what a network keeps for machines of vmctl's, each with its machine's name."""
    for listed in list_domains(connection):
        for entry in () if listed.record is None else listed.record.addresses:
            if entry.network == name:
                yield listed.domain.name, entry
