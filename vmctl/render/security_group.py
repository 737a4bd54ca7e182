"""Security groups as packet filters (https://libvirt.org/formatnwfilter.html)."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

from vmctl.render.filter_names import FilterDocument, group_filter_name
from vmctl.render.nwfilter import document, named_by_content
from vmctl.render.templates import Templates
from vmctl.spec.security_group import (
    Direction,
    RuleAction,
    RuleProtocol,
    SecurityGroupSpec,
    SecurityRuleSpec,
    port_range,
)

__all__ = ["recorded_group", "render_group"]

_SPEC = "SPEC"
# What a rule drops, no rule of any group accepts; what nobody accepted, the last one drops.
_PRIORITIES = {RuleAction.DROP: 100, RuleAction.ACCEPT: 200}
_CLOSING = 900
_ELEMENTS = {
    (RuleProtocol.ICMP, 4): "icmp",
    (RuleProtocol.ICMPV6, 6): "icmpv6",
    **{
        (protocol, version): f"{protocol.value}{tail}"
        for protocol in (RuleProtocol.ALL, RuleProtocol.TCP, RuleProtocol.UDP)
        for version, tail in ((4, ""), (6, "-ipv6"))
    },
}


@dataclass(frozen=True)
class _Rule:
    action: str
    direction: str
    priority: int
    element: str
    match: tuple[tuple[str, str], ...] = ()


def render_group(
    spec: SecurityGroupSpec,
    members: Mapping[str, Sequence[str]],
    templates: Templates | None = None,
) -> tuple[FilterDocument, FilterDocument]:
    """Return the filter of a security group, behind the one that it refers to.

    Args:
        spec: What is wanted.
        members: The addresses of those who are in the groups that its rules name.
        templates: Templates to use instead of the default ones.
    """
    record = named_by_content("record", {}, templates)
    written = spec.model_dump(mode="json", exclude_unset=True)
    text = json.dumps(written, sort_keys=True, ensure_ascii=True)
    values: dict[str, Any] = {
        "record": record.name,
        # libvirt lets a parameter be of letters, digits and little else.
        "spec": text.encode().hex(),
        "rules": list(_rules(spec, members)),
    }
    return record, document(group_filter_name(spec.name), "group", values, templates)


def recorded_group(root: etree._Element) -> SecurityGroupSpec | None:
    """Return the spec that a filter was made from; None if it is of no security group.

    Raises:
        SpecError: What is recorded is not a valid spec.
    """
    for node in root.iterfind("filterref/parameter"):
        if node.get("name") == _SPEC:
            written = json.loads(bytes.fromhex(node.get("value", "")))
            return SecurityGroupSpec.model_validate(written)
    return None


def _rules(spec: SecurityGroupSpec, members: Mapping[str, Sequence[str]]) -> Iterator[_Rule]:
    for rule in spec.rules:
        yield from _one(rule, members)
    closes = {
        rule.direction
        for rule in spec.rules
        if rule.direction is Direction.EGRESS and rule.action is RuleAction.ACCEPT
    }
    if closes:
        for element in ("all", "all-ipv6"):
            yield _Rule("drop", "out", _CLOSING, element)


def _one(rule: SecurityRuleSpec, members: Mapping[str, Sequence[str]]) -> Iterator[_Rule]:
    inward = rule.direction is Direction.INGRESS
    side = "src" if inward else "dst"
    for version, peer in _peers(rule, members):
        match = []
        if peer is not None:
            match.append((f"{side}ipaddr", str(peer.network_address)))
            if peer.prefixlen != peer.max_prefixlen:
                match.append((f"{side}ipmask", str(peer.prefixlen)))
        for ports in rule.ports or (None,):
            numbers = [] if ports is None else list(_port_match(ports))
            yield _Rule(
                action=rule.action.value,
                direction="in" if inward else "out",
                priority=_PRIORITIES[rule.action],
                element=_ELEMENTS[rule.protocol, version],
                match=(*match, *numbers),
            )


def _port_match(ports: str) -> Iterator[tuple[str, str]]:
    first, last = port_range(ports)
    yield "dstportstart", str(first)
    if last != first:
        yield "dstportend", str(last)


def _peers(
    rule: SecurityRuleSpec, members: Mapping[str, Sequence[str]]
) -> Iterator[tuple[int, ipaddress.IPv4Network | ipaddress.IPv6Network | None]]:
    """Return the other sides of a rule, each with its version of IP; None for anybody."""
    families = rule.protocol.families
    if rule.cidr is None and rule.group is None:
        yield from ((version, None) for version in families)
        return
    texts = [rule.cidr] if rule.cidr is not None else members.get(rule.group or "", ())
    for text in texts:
        network = ipaddress.ip_network(text)
        if network.version in families:
            yield network.version, network
