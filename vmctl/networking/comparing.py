"""What a new spec means for a network, worked out before anything is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from lxml import etree

from vmctl.errors import ConflictError
from vmctl.hypervisor.network_changing import Definitions
from vmctl.render.network import render_network
from vmctl.render.network_parts import parts_of
from vmctl.render.network_record import recorded_spec
from vmctl.spec.network import NetworkSpec
from vmctl.spec.subnet import SubnetSpec

__all__ = [
    "NetworkDifference",
    "NetworkPlan",
    "NetworkWhen",
    "plan_network",
    "recorded",
    "with_known_subnets",
]


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
    wanted: NetworkSpec, found: Definitions, *, machines: tuple[str, ...]
) -> NetworkPlan:
    """Compare a spec with a network.

    Args:
        wanted: The spec, with its subnets chosen.
        found: The network.
        machines: Who is on it, running or not.

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
    if before.autostart != wanted.autostart:
        was, shall = ("true" if spec.autostart else "false" for spec in (before, wanted))
        differences.append(_difference("autostart", was, shall, (old, new), machines))
    changed = {entry.path for entry in differences}
    running = actual if found.running is None else parts_of(found.running)
    return NetworkPlan(
        name=wanted.name,
        exists=True,
        differences=tuple(differences),
        drift=tuple(
            path
            for path in dict.fromkeys([*old, *actual])
            if old.get(path) != actual.get(path)
            and path not in changed
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
    elif path == "autostart" or _is_entry(path, sides):
        when, why = NetworkWhen.LIVE, ""
    return NetworkDifference(path=path, before=before, after=after, when=when, why=why)


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
