"""What a new spec means for a network, worked out before anything is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from lxml import etree

from vmctl.errors import ConflictError
from vmctl.hypervisor.network_changing import Definitions
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.render.network import render_network
from vmctl.render.network_parts import parts_of
from vmctl.render.network_record import recorded_spec
from vmctl.spec.network import NetworkSpec
from vmctl.spec.subnet import SubnetSpec

__all__ = [
    "RECORDED_ONLY",
    "NetworkDifference",
    "NetworkPlan",
    "NetworkWhen",
    "plan_network",
    "recorded",
    "with_known_subnets",
]


RECORDED_ONLY = ("autostart", "tenant", "shared", "reach", "keep_from")
"""What a network's XML for libvirt does not say."""


class NetworkWhen(StrEnum):
    """When a difference of a network can be made."""

    LIVE = "live"
    """At once, while guests are on it."""
    RESTART = "restart"
    """In the definition; the network has it from its next start on."""
    ANEW = "anew"
    """Only by making the network anew."""


@dataclass(frozen=True, kw_only=True)
class NetworkDifference:
    """One difference between what is wanted of a network and what is recorded.

    Attributes:
        path: The field, an entry of a list by its name: ``mtu``, ``dns.hosts.192.0.2.7``,
            ``ipv4.reservations.52:54:00:..``.
        before: What it is; empty where it comes.
        after: What is wanted; empty where it goes.
        when: When it can be made.
        why: Why not sooner; empty for what is made live.
    """

    path: str
    before: str
    after: str
    when: NetworkWhen
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """What differs between a network and a spec.

    Attributes:
        name: The network.
        exists: Whether there is one; else it is made.
        differences: What the spec wants otherwise than it was recorded, and when that can be had.
        drift: The paths of what somebody else changed in the definition, and what stays.
        pending: The paths of what the definition has already, and the network gets at its next
            start.
    """

    name: str
    exists: bool
    differences: tuple[NetworkDifference, ...] = ()
    drift: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()

    def those(self, when: NetworkWhen) -> tuple[NetworkDifference, ...]:
        """Return the differences that can be made at some time."""
        return tuple(entry for entry in self.differences if entry.when is when)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def recorded(found: Definitions, name: str) -> NetworkSpec:
    """Return the spec that a network has by vmctl's record.

    Raises:
        ConflictError: vmctl did not make it.
    """
    data = recorded_spec(etree.fromstring(found.next))
    if data is None:
        raise ConflictError(
            f"vmctl did not make the network '{name}'",
            hint="vmctl changes only what it made; use `virsh net-edit` and `net-update` for this "
            "one",
        )
    return NetworkSpec.model_validate(data)


def with_known_subnets(wanted: NetworkSpec, before: NetworkSpec) -> NetworkSpec:
    """Return what is wanted with the subnets that the network has where it says ``auto``."""

    def known(subnet: SubnetSpec | None, other: SubnetSpec | None) -> SubnetSpec | None:
        if subnet is None or other is None or subnet.network is not None:
            return subnet
        return subnet.replace(subnet=other.subnet)

    return wanted.with_subnets(
        known(wanted.wanted_ipv4, before.ipv4), known(wanted.ipv6, before.ipv6)
    )


def plan_network(
    wanted: NetworkSpec,
    found: Definitions,
    *,
    machines: tuple[str, ...],
    kept: Iterable[ReservedAddress] = (),
) -> NetworkPlan:
    """Compare a spec with a network.

    Args:
        wanted: The spec, with its subnets chosen.
        found: The network.
        machines: Who is on it, running or not.
        kept: The addresses that it keeps for machines of vmctl's, which nobody else changed.

    Raises:
        ConflictError: vmctl did not make it.
    """
    before = recorded(found, wanted.name)
    old, new = (parts_of(render_network(spec)) for spec in (before, wanted))
    actual = parts_of(found.next)
    differences = [
        _difference(path, old.get(path, ""), new.get(path, ""), (old, new), machines)
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    ]
    differences += [
        _of_record(name, _told(before, name), _told(wanted, name), machines)
        for name in RECORDED_ONLY
        if getattr(before, name) != getattr(wanted, name)
    ]
    if wanted.tenant or wanted.shared:
        differences = [_under_fences(entry, machines) for entry in differences]
    changed = {entry.path for entry in differences}
    machines_own = {path for entry in kept for path in _paths_of(entry)}
    running = actual if found.running is None else parts_of(found.running)
    return NetworkPlan(
        name=wanted.name,
        exists=True,
        differences=tuple(differences),
        drift=tuple(
            path
            for path in dict.fromkeys([*old, *actual])
            if old.get(path) != actual.get(path)
            and path not in changed | machines_own
            # libvirt chose it.
            and not (path == "bridge" and path not in old)
        ),
        pending=tuple(
            path
            for path in dict.fromkeys([*actual, *running])
            if actual.get(path) != running.get(path)
        ),
    )


def _difference(
    path: str,
    before: str,
    after: str,
    sides: tuple[dict[str, str], dict[str, str]],
    machines: tuple[str, ...],
) -> NetworkDifference:
    when, why = NetworkWhen.RESTART, "libvirt takes it when the network starts"
    if path == "mode" and machines:
        when = NetworkWhen.ANEW
        why = f"another kind of network, under {', '.join(machines)}"
    elif _is_entry(path, sides):
        when, why = NetworkWhen.LIVE, ""
    return NetworkDifference(path=path, before=before, after=after, when=when, why=why)


def _of_record(name: str, before: str, after: str, machines: tuple[str, ...]) -> NetworkDifference:
    """Return a difference of what libvirt itself knows nothing of, or has apart."""
    if name == "autostart" or not machines:
        when, why = NetworkWhen.LIVE, ""
    else:
        when = NetworkWhen.ANEW
        why = f"what its guests may reach follows from it: {', '.join(machines)}"
    return NetworkDifference(path=name, before=before, after=after, when=when, why=why)


def _under_fences(entry: NetworkDifference, machines: tuple[str, ...]) -> NetworkDifference:
    """Refuse other addresses under guests of tenants, whose packet filters have those it has."""
    if not machines or not entry.path.endswith((".subnet", ".gateway", "isolate_guests")):
        return entry
    why = f"the packet filters of its guests know it by that: {', '.join(machines)}"
    return replace(entry, when=NetworkWhen.ANEW, why=why)


def _told(spec: NetworkSpec, name: str) -> str:
    value = getattr(spec, name)
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, tuple) else value or ""


def _paths_of(entry: ReservedAddress) -> tuple[str, ...]:
    guest = entry.mac if entry.version == 4 else entry.name
    kept = f"ipv{entry.version}.reservations.{guest}"
    return (kept, f"dns.hosts.{entry.address}") if entry.static else (kept,)


def _is_entry(path: str, sides: tuple[dict[str, str], dict[str, str]]) -> bool:
    """Return whether a running network can be given it: an entry of a list that both have."""
    family, _, rest = path.partition(".")
    if family == "dns":
        return rest.startswith("hosts.")
    if not rest.startswith(("reservations.", "range")):
        return False
    same = ("subnet", "gateway", "dhcp")
    old, new = ([side.get(f"{family}.{name}") for name in same] for side in sides)
    return old == new
