"""Security groups: named sets of rules, for NICs that are in them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.document import SpecDocument
from vmctl.spec.names import GroupName
from vmctl.spec.text import Line

__all__ = [
    "Direction",
    "RuleAction",
    "RuleProtocol",
    "SecurityGroupSpec",
    "SecurityRuleSpec",
    "port_range",
]

_MOST_RULES = 100
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class Direction(StrEnum):
    """Where traffic goes, as the guest sees it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class RuleAction(StrEnum):
    """What becomes of traffic that a rule is about."""

    ACCEPT = "accept"
    DROP = "drop"


class RuleProtocol(StrEnum):
    """What a rule is about."""

    ALL = "all"
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"

    @property
    def has_ports(self) -> bool:
        """Whether it has ports."""
        return self in {RuleProtocol.TCP, RuleProtocol.UDP}

    @property
    def families(self) -> tuple[int, ...]:
        """The versions of IP that carry it."""
        only = {RuleProtocol.ICMP: (4,), RuleProtocol.ICMPV6: (6,)}
        return only.get(self, (4, 6))


def _ports(text: str) -> str:
    match = _PORTS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is neither a port nor a range of ports, such as 8000-8099")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= 65535 or not 1 <= last <= 65535:
        raise ValueError(f"{text} is not between 1 and 65535")
    if last < first:
        raise ValueError(f"{text} ends before it begins; write {last}-{first}")
    return str(first) if first == last else f"{first}-{last}"


def _port_list(value: Any) -> Any:
    items = value if isinstance(value, list | tuple) else [] if value is None else [value]
    whole = [str(item) if type(item) is int else item for item in items]
    return tuple(whole)


def _cidr(text: str) -> str:
    try:
        whole = ipaddress.ip_interface(text).network
    except ValueError:
        raise ValueError(
            f"{text[:60]!r} is neither an address nor a subnet, such as 192.0.2.0/24"
        ) from None
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"{text[:60]!r} is an address in {whole}; write that") from None


Ports = Annotated[
    tuple[Annotated[str, AfterValidator(_ports)], ...],
    BeforeValidator(_port_list, json_schema_input_type=int | str | list[int | str]),
]


def port_range(text: str) -> tuple[int, int]:
    """Return the first and the last of a rule's ports."""
    first, _, last = text.partition("-")
    return int(first), int(last or first)


class SecurityRuleSpec(SpecModel):
    """One rule."""

    direction: Direction
    """Where the traffic goes that it is about: `ingress` to the guest, or `egress` from it."""
    action: RuleAction = RuleAction.ACCEPT
    """What becomes of it: `accept` or `drop`; what one rule drops, no other accepts."""
    protocol: RuleProtocol = RuleProtocol.ALL
    """`tcp`, `udp`, `icmp`, `icmpv6`, or `all`, which has the others in it."""
    ports: Ports = ()
    """The ports that are asked for: one, a range (`8000-8099`), or a list; all when not given."""
    cidr: Annotated[str, AfterValidator(_cidr)] | None = None
    """The other side: an address, or a subnet; anybody when neither this nor `group` is given."""
    group: GroupName | None = None
    """The other side: whoever is in that security group."""

    def _problems(self) -> list[SpecProblem]:
        problems = []
        if self.ports and not self.protocol.has_ports:
            problems.append(SpecProblem("ports", f"protocol {self.protocol} has no ports"))
        if self.cidr is not None and self.group is not None:
            problems.append(SpecProblem("group", "the other side is a cidr already"))
        if self.cidr is not None:
            version = ipaddress.ip_network(self.cidr).version
            if version not in self.protocol.families:
                problems.append(
                    SpecProblem("cidr", f"{self.cidr} is IPv{version}, and {self.protocol} is not")
                )
        taken: list[tuple[int, int]] = []
        for text in self.ports:
            first, last = port_range(text)
            if any(first <= other[1] and other[0] <= last for other in taken):
                problems.append(SpecProblem("ports", f"{text} is there already"))
            taken.append((first, last))
        return problems

    @property
    def matches(self) -> frozenset[tuple[object, ...]]:
        """What it is about, each part by itself."""
        about = (self.direction, self.protocol, self.cidr, self.group)
        return frozenset((*about, ports) for ports in self.ports or ("",))


class SecurityGroupSpec(SpecDocument):
    """What one security group shall be.

    A NIC that is in a group is reached by what a rule of one of its groups accepts, and by answers
    to what its guest began. Its guest reaches everybody, unless a group has rules for `egress` that
    accept: then only what those accept.
    """

    name: GroupName
    """Its name."""
    description: Line | None = None
    """What it is for."""
    rules: Annotated[tuple[SecurityRuleSpec, ...], Field(max_length=_MOST_RULES)] = ()
    """Its rules, in any order."""

    def _problems(self) -> list[SpecProblem]:
        return list(self._contradictions())

    def _contradictions(self) -> Iterator[SpecProblem]:
        seen: dict[tuple[object, ...], tuple[int, RuleAction]] = {}
        for number, rule in enumerate(self.rules):
            for match in sorted(rule.matches, key=str):
                if match not in seen:
                    seen[match] = (number, rule.action)
                    continue
                other, action = seen[match]
                if action is rule.action:
                    yield SpecProblem(f"rules[{number}]", f"says what rules[{other}] says")
                else:
                    yield SpecProblem(
                        f"rules[{number}]",
                        f"contradicts rules[{other}]: the one accepts what the other drops",
                    )
                break
