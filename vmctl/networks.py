"""Networks of a host: made, listed, started, stopped, removed."""

from __future__ import annotations

import secrets
import uuid as uuid_module
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from typing import TypeAlias

from vmctl.errors import (
    ConflictError,
    HypervisorError,
    NotFoundError,
    RollbackError,
    VmctlError,
)
from vmctl.hypervisor import network_facts, network_making
from vmctl.hypervisor import networks as backend
from vmctl.hypervisor.connection import Connection, outlasting
from vmctl.hypervisor.names import list_domains
from vmctl.hypervisor.reservations import served_by
from vmctl.progress import being_undone
from vmctl.render.network import render_network
from vmctl.spec.free_subnets import free_ipv4, overlapping, unique_local
from vmctl.spec.network import NetworkSpec
from vmctl.spec.subnet import SubnetSpec

__all__ = ["NetworkInfo", "NetworkLease", "NetworkReservation", "Networks"]

NetworkInfo: TypeAlias = network_facts.NetworkFacts
NetworkLease: TypeAlias = network_facts.Lease

# The same spec gives the same UUID: so one can go on with what a killed client began.
_SPACE = uuid_module.UUID("5a0d6c1f-2d0e-4c43-9a43-3f1f8d3f7b52")
# A host whose own routes have this many of the subnets in question is asked for one.
_TRIES = 16


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


class Networks:
    """The networks of one host."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, spec: NetworkSpec) -> NetworkInfo:
        """Make a network: started, kept, and started with the host.

        A subnet that is ``auto`` becomes one that no other network, and no device of the host, has.
        If anything fails, nothing is left. If the client is killed, calling it again goes on.

        Args:
            spec: What is wanted.

        Raises:
            ConflictError: There is a network of that name, or one that has some of its addresses.
            UnsupportedError: The host's libvirt has no networks.
            HypervisorError: libvirt can't start it; why is in ``details``.
        """
        uuid = str(uuid_module.uuid5(_SPACE, spec.model_dump_json(exclude_unset=True)))
        if not self._is_half_made(spec, uuid):
            self._bring_up(spec, uuid)
        try:
            network_making.keep(self._connection, spec.name, autostart=spec.autostart)
        except BaseException as error:
            with being_undone():
                self._undo(spec, cause=error)
            raise
        return self.info(spec.name)

    def _is_half_made(self, spec: NetworkSpec, uuid: str) -> bool:
        """Return whether a client that made this very network was killed before libvirt kept it.

        Raises:
            ConflictError: There is a network of that name that is whole, or another.
        """
        try:
            found = self.info(spec.name)
        except NotFoundError:
            return False
        if found.uuid == uuid and not found.persistent:
            return True
        raise network_making.name_is_taken(spec.name)

    def _bring_up(self, spec: NetworkSpec, uuid: str) -> None:
        """Make it run, on subnets that are free.

        What the host's own devices have is known only to the host: libvirt refuses what collides.
        """
        others = network_facts.subnets_of(self._connection)
        ipv4 = spec.wanted_ipv4
        for subnet in (ipv4, spec.ipv6):
            if subnet is not None and subnet.network is not None:
                _refuse_overlap(subnet.subnet, others)
        failure: HypervisorError | None = None
        for chosen in islice(_candidates(ipv4, spec.ipv6, others), _TRIES):
            xml = render_network(spec.with_subnets(*chosen), uuid=uuid)
            try:
                network_making.bring_up(self._connection, xml, name=spec.name, uuid=uuid)
            except HypervisorError as error:
                failure = error
            else:
                return
        raise failure or ConflictError(
            f"there is no subnet left for the network '{spec.name}'",
            hint="give it one: `ipv4: 192.0.2.0/24`",
        )

    def _undo(self, spec: NetworkSpec, *, cause: BaseException) -> None:
        try:
            outlasting(lambda: network_making.forget(self._connection, spec.name))
        except VmctlError as failure:
            raise RollbackError(
                f"the network '{spec.name}' could not be made, and not all of it could be undone",
                left=(f"the network '{spec.name}'",),
                details=f"it failed because: {cause}\nthe undoing failed because: {failure}",
                hint=f"mend the cause, then `vmctl network delete {spec.name}`",
            ) from cause

    def list(self) -> Sequence[NetworkInfo]:
        """Return every network of the host, whoever made it, sorted by name."""
        return network_facts.list_facts(self._connection)

    def info(self, name: str) -> NetworkInfo:
        """Return all that is known of a network.

        Raises:
            NotFoundError: There is none of that name.
        """
        return network_facts.facts_of(self._connection, name)

    def leases(self, name: str) -> Sequence[NetworkLease]:
        """Return the addresses that its guests were given, in their order.

        Raises:
            NotFoundError: There is none of that name.
        """
        return network_facts.leases_of(self._connection, name)

    def reservations(self, name: str) -> Sequence[NetworkReservation]:
        """Return the addresses that it keeps for guests, be they there or not, in their order.

        Raises:
            NotFoundError: There is none of that name.
        """
        served = served_by(self._connection, name)
        owners = {
            entry.address: listed.domain.name
            for listed in list_domains(self._connection)
            if listed.record is not None
            for entry in listed.record.addresses
            if entry.network == served.name
        }
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

    def start(self, name: str) -> NetworkInfo:
        """Start a network, whoever made it; one that is active is a success.

        Raises:
            NotFoundError: There is none of that name.
            UnsupportedError: The host can't start it; why is in ``details``.
        """
        backend.ensure_active(self._connection, name)
        return self.info(name)

    def stop(self, name: str, *, force: bool = False) -> NetworkInfo:
        """Stop a network, whoever made it; one that is inactive is a success.

        Args:
            name: Which.
            force: Whether to stop it under running guests, which lose their connection until they
                start anew.

        Raises:
            NotFoundError: There is none of that name.
            ConflictError: Guests are plugged into it.
        """
        found = self.info(name)
        running = backend.plugged_in(self._connection, name)
        if running and not force:
            raise ConflictError(
                f"the network '{name}' has running guests",
                details=", ".join(running),
                hint="stop them first, or cut them off with --force",
            )
        network_making.stop(self._connection, name)
        return self.info(name) if found.persistent else found

    def delete(self, name: str) -> None:
        """Stop and remove a network that vmctl made and that no machine is on.

        Raises:
            NotFoundError: There is none of that name.
            ConflictError: vmctl did not make it, or a machine, running or not, is on it.
        """
        found = self.info(name)
        if not found.made_by_vmctl:
            raise ConflictError(
                f"vmctl did not make the network '{name}'",
                hint=f"whoever made it removes it; by hand: virsh net-destroy {name}, "
                f"virsh net-undefine {name}",
            )
        users = found.machines or backend.plugged_in(self._connection, name)
        if users:
            raise ConflictError(
                f"the network '{name}' is used by {', '.join(users)}",
                hint="delete these machines first, or detach their NICs: `vmctl nic detach`",
            )
        network_making.forget(self._connection, name)


def _refuse_overlap(subnet: str, others: dict[str, tuple[str, ...]]) -> None:
    other = overlapping(subnet, others)
    if other is not None:
        raise ConflictError(
            f"{subnet} overlaps {', '.join(others[other])}, which is the network '{other}'",
            hint="choose another subnet, or `auto`",
        )


def _candidates(
    ipv4: SubnetSpec | None, ipv6: SubnetSpec | None, others: dict[str, tuple[str, ...]]
) -> Iterator[tuple[SubnetSpec | None, SubnetSpec | None]]:
    """Return what the two subnets can be, one choice after the other."""
    taken = [subnet for subnets in others.values() for subnet in subnets]
    of_ipv4: Iterator[SubnetSpec | None] = iter((ipv4,))
    if ipv4 is not None and ipv4.network is None:
        free = free_ipv4(taken, start=secrets.randbelow(1 << 16))
        of_ipv4 = (ipv4.replace(subnet=subnet) for subnet in free)
    for first in of_ipv4:
        second = ipv6
        if ipv6 is not None and ipv6.network is None:
            second = ipv6.replace(subnet=unique_local(secrets.randbits(40)))
        yield first, second
