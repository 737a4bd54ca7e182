"""Lines for ``/etc/hosts``: the names by which this machine finds guests (hosts(5))."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vmctl.errors import NotFoundError
from vmctl.guest.addresses import static_addresses
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.metadata import Record
from vmctl.hypervisor.names import list_domains
from vmctl.hypervisor.reservations import Served
from vmctl.networking.taken import Neighbours
from vmctl.spec.names import HostName, hostname_of

__all__ = ["hosts_file"]


@dataclass(frozen=True)
class _Line:
    address: str
    names: tuple[str, ...]


def hosts_file(connection: Connection, network: str | None = None) -> str:
    """Return a line for each address of vmctl's machines that is known without asking the guests.

    Args:
        connection: The host.
        network: The network whose guests are meant; None: all of the host's.

    Raises:
        NotFoundError: There is no such network.
    """
    neighbours = Neighbours(connection, "")
    if network is not None:
        neighbours.served(network)
    lines: list[_Line] = []
    taken: set[tuple[str, bool]] = set()
    for name, record in _machines(connection):
        for nic in record.spec.get("nics") or ():
            where = nic.get("network")
            if not where or network not in {None, where}:
                continue
            lines += _lines_of(neighbours, name, record, nic, taken)
    return "".join(f"{line.address}\t{' '.join(line.names)}\n" for line in lines)


def _machines(connection: Connection) -> Iterator[tuple[str, Record]]:
    for listed in list_domains(connection):
        if listed.record is not None:
            yield listed.domain.name, listed.record


def _lines_of(
    neighbours: Neighbours,
    machine: str,
    record: Record,
    nic: dict[str, Any],
    taken: set[tuple[str, bool]],
) -> Iterator[_Line]:
    try:
        served = neighbours.served(nic["network"])
    except NotFoundError:
        # It went, and its guests have no addresses.
        return
    for address in _addresses(neighbours, served, record, nic):
        names = []
        for name in _names(machine, record, served):
            # A name leads to the first address of each family that has it.
            key = (name, ":" in address)
            if key not in taken:
                taken.add(key)
                names.append(name)
        if names:
            yield _Line(address, tuple(names))


def _addresses(
    neighbours: Neighbours, served: Served, record: Record, nic: dict[str, Any]
) -> list[str]:
    mac = str(nic.get("mac") or "").lower()
    found = list(static_addresses({"nics": [nic]}).get(mac, ()))
    found += [
        entry.address
        for entry in record.addresses
        if entry.mac == mac and entry.network == served.name
    ]
    found += [kept.address for subnet in served.subnets for kept in subnet.kept if kept.mac == mac]
    if not found:
        found = [lease.address for lease in neighbours.leases(served.name) if lease.mac == mac]
    return list(dict.fromkeys(found))


def _names(machine: str, record: Record, served: Served) -> list[str]:
    cloud_init = record.spec.get("cloud_init") or {}
    name = (cloud_init.get("hostname") or hostname_of(machine)).lower()
    found = [name]
    if served.domain:
        found.insert(0, f"{name.partition('.')[0]}.{served.domain}")
    try:
        TypeAdapter(HostName).validate_python(machine)
    except ValidationError:
        return found
    return list(dict.fromkeys([*found, machine.lower()]))
