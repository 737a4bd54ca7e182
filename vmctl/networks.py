"""Networks of a host: made, listed, started, stopped, removed."""

from __future__ import annotations

import secrets
import uuid as uuid_module
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeAlias

from vmctl.errors import (
    ConflictError,
    HypervisorError,
    NotFoundError,
    RollbackError,
    VmctlError,
)
from vmctl.hypervisor import network_facts, network_making
from vmctl.hypervisor import networks as backend
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import Connection, outlasting
from vmctl.hypervisor.host_devices import refuse_missing_devices
from vmctl.hypervisor.network_changing import definitions
from vmctl.networking.applying import apply_plan, refuse_anew, refuse_restart
from vmctl.networking.comparing import (
    NetworkPlan,
    NetworkWhen,
    plan_network,
    recorded,
    with_known_subnets,
)
from vmctl.networking.kept import NetworkReservation, kept_for_machines, reservations_of
from vmctl.progress import being_undone
from vmctl.render.network import render_network
from vmctl.spec.free_subnets import free_ipv4, overlapping, unique_local
from vmctl.spec.network import NetworkSpec
from vmctl.spec.subnet import SubnetSpec

__all__ = ["NetworkApplied", "NetworkInfo", "NetworkLease", "NetworkReservation", "Networks"]

NetworkInfo: TypeAlias = network_facts.NetworkFacts
NetworkLease: TypeAlias = network_facts.Lease

# The same spec gives the same UUID: so one can go on with what a killed client began.
_SPACE = uuid_module.UUID("5a0d6c1f-2d0e-4c43-9a43-3f1f8d3f7b52")
# A host whose own routes have this many of the subnets in question is asked for one.
_TRIES = 16
# Longer than the making of any network takes.
_MAKING_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class NetworkApplied:
    """What `Networks.apply` did.

    Attributes:
        plan: What differed before; with ``exists`` False, the network was made.
        network: The network, as it is now.
        made: The paths of the differences that were made.
        waiting: What the definition has, and the running network gets when it is restarted.
    """

    plan: NetworkPlan
    network: NetworkInfo
    made: tuple[str, ...]
    waiting: tuple[str, ...]


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
        refuse_missing_devices(self._connection, spec)
        if not self._is_half_made(spec, uuid):
            with claimed(_MAKING_SECONDS) as claim:
                self._bring_up(spec, uuid, asdict(claim))
                return self._keep(spec)
        return self._keep(spec)

    def _keep(self, spec: NetworkSpec) -> NetworkInfo:
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
            for entry in network_making.half_made(self._connection):
                at_work = entry.claim is not None and not entry.claim.is_abandoned()
                if entry.uuid == uuid and at_work:
                    break
            else:
                return True
        raise network_making.name_is_taken(spec.name)

    def _bring_up(self, spec: NetworkSpec, uuid: str, claim: dict[str, Any]) -> None:
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
            xml = render_network(spec.with_subnets(*chosen), uuid=uuid, claim=claim)
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

    def compare(self, spec: NetworkSpec) -> NetworkPlan:
        """Return what differs between a network and a spec, and when each difference can be made.

        Nothing is changed. A subnet that is ``auto`` is the one that the network has.

        Args:
            spec: All that it shall be.

        Raises:
            ConflictError: vmctl did not make it.
        """
        return self._compare(spec)[0]

    def _compare(self, spec: NetworkSpec) -> tuple[NetworkPlan, NetworkSpec]:
        try:
            info = self.info(spec.name)
        except NotFoundError:
            return NetworkPlan(name=spec.name, exists=False), spec
        found = definitions(self._connection, spec.name)
        if not found.persistent and info.made_by_vmctl:
            # Half-made: whoever makes it again goes on with it.
            return NetworkPlan(name=spec.name, exists=False), spec
        before = recorded(found, spec.name)
        wanted = with_known_subnets(spec, before)
        if any(net is not None and net.network is None for net in (wanted.ipv4, wanted.ipv6)):
            others = network_facts.subnets_of(self._connection)
            chosen = next(_candidates(wanted.ipv4, wanted.ipv6, others))
            wanted = wanted.with_subnets(*chosen)
        kept = [entry for _name, entry in kept_for_machines(self._connection, spec.name)]
        return plan_network(wanted, found, machines=info.machines, kept=kept), wanted

    def apply(
        self,
        spec: NetworkSpec,
        *,
        plan: NetworkPlan | None = None,
        restart: bool = False,
        force: bool = False,
    ) -> NetworkApplied:
        """Make a network what a spec says; a second time changes nothing. One that is not, is made.

        Reservations, ranges and DNS names are changed while guests are on it. All else is in its
        definition, and had from its next start on. What others changed stays as it is. If anything
        fails, the network is as it was. If the client is killed, calling it again goes on.

        Args:
            spec: All that it shall be.
            plan: What `compare` said and somebody accepted: nothing else is done.
            restart: Whether it is restarted now for what waits for that, or because it is off.
            force: Whether that is done under running guests, which lose their connection until they
                start anew.

        Raises:
            ConflictError: vmctl did not make it; it would have to be made anew; it has running
                guests and was to be restarted; something on the host has its addresses; or it
                differs otherwise than ``plan`` says. Nothing was changed.
            HypervisorError: libvirt refuses something; the network is as it was.
        """
        now, wanted = self._compare(spec)
        if plan is not None and _shown(plan) != _shown(now):
            raise ConflictError(
                f"the network '{spec.name}' was changed meanwhile, so that other things differ "
                "than were shown",
                hint="nothing was changed; run it again to see what differs now",
            )
        if not now.exists:
            return NetworkApplied(plan=now, network=self.create(spec), made=(), waiting=())
        refuse_anew(now)
        self._refuse_what_cant_be(now, wanted)
        waits = {entry.path for entry in now.those(NetworkWhen.RESTART)} | {*now.pending}
        off = self.info(spec.name).state != "active"
        restarts = restart and (off or bool(waits))
        if restarts and not force:
            refuse_restart(self._connection, spec.name)
        if now.differences or restarts:
            apply_plan(self._connection, now, wanted, restart=restarts)
        return NetworkApplied(
            plan=now,
            network=self.info(spec.name),
            made=tuple(entry.path for entry in now.differences),
            waiting=self._compare(spec)[0].pending,
        )

    def _refuse_what_cant_be(self, plan: NetworkPlan, wanted: NetworkSpec) -> None:
        """Refuse what the host has not, or has for something else."""
        changed = _paths(plan)
        if changed & {"bridge", "device", "mode"}:
            refuse_missing_devices(self._connection, wanted)
        others = network_facts.subnets_of(self._connection)
        others.pop(wanted.name, None)
        for family, subnet in (("ipv4", wanted.ipv4), ("ipv6", wanted.ipv6)):
            if subnet is not None and f"{family}.subnet" in changed:
                _refuse_overlap(subnet.subnet, others)

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

    def list(self, *, tenant: str | None = None) -> Sequence[NetworkInfo]:
        """Return every network of the host, whoever made it, sorted by name.

        Args:
            tenant: Only those that a machine of this tenant may join: its own, and shared ones.
        """
        found = network_facts.list_facts(self._connection)
        if tenant is None:
            return found
        return [entry for entry in found if entry.shared or (tenant and entry.tenant == tenant)]

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
        return reservations_of(self._connection, name)

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


def _shown(plan: NetworkPlan) -> tuple[bool, list[tuple[str, str, NetworkWhen]]]:
    """Return what was accepted; what comes is the spec's, where ``auto`` may be anything."""
    return plan.exists, [(entry.path, entry.before, entry.when) for entry in plan.differences]


def _paths(plan: NetworkPlan) -> set[str]:
    return {entry.path for entry in plan.differences}


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
