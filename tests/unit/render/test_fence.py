"""Where a tenant's guest may not go: by its filter's rules, and by libvirt's schema."""

from __future__ import annotations

import ipaddress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from vmctl.errors import SpecError
from vmctl.render.fence import fence_values
from vmctl.render.nwfilter import nic_documents, nic_filter
from vmctl.spec import NicSpec
from vmctl.spec.fence import FenceSpec

SCHEMA = Path("/usr/share/libvirt/schemas/nwfilter.rng")
OWN: dict[str, Any] = {
    "gateways": ["10.1.0.1", "fd00:1::1", "fe80::5054:ff:fe00:1"],
    "subnets": ["10.1.0.0/24", "fd00:1::/64"],
}


@cache
def schema() -> etree.RelaxNG:
    assert SCHEMA.exists(), f"{SCHEMA} is missing: install libvirt-daemon-system or libvirt-dev"
    return etree.RelaxNG(etree.parse(SCHEMA))


def nic(**fields: Any) -> NicSpec:
    return NicSpec.model_validate({"network": "a", "mac": "52:54:00:00:00:01", **fields})


def reaches(fence: dict[str, Any], address: str) -> bool:
    """Return whether a guest may begin to speak to an address, about nothing special."""
    values = fence_values(FenceSpec.model_validate(fence))
    to = ipaddress.ip_address(address)
    return not any(
        to in ipaddress.ip_network(f"{net['address']}/{net['prefix']}")
        for net in values["own"] + values["kept"]
        if net["version"] == to.version
    )


@pytest.mark.parametrize(
    "address",
    [
        "10.1.0.1",  # its host
        "10.1.0.0",
        "10.1.0.255",
        "10.2.0.1",  # others
        "172.16.5.5",
        "192.168.122.1",
        "100.64.0.1",
        "169.254.169.254",
        "127.0.0.1",
        "224.0.0.251",
        "255.255.255.255",
        "0.0.0.0",  # noqa: S104
        "fd00:1::1",
        "fd00:1::",
        "fd00:2::5",
        "fe80::5054:ff:fe00:1",
        "ff02::fb",
        "::1",
    ],
)
def test_what_nobody_reaches(address: str) -> None:
    assert not reaches(OWN, address)
    assert not reaches({**OWN, "neighbours": True}, address)


@pytest.mark.parametrize("address", ["10.1.0.7", "fd00:1::7", "fe80::7"])
def test_neighbours(address: str) -> None:
    assert reaches({**OWN, "neighbours": True}, address)
    assert not reaches(OWN, address)


def test_the_world_and_what_is_said_of_it() -> None:
    for address in ("198.51.100.7", "2001:db8::7", "8.8.8.8"):
        assert reaches(OWN, address)
    kept = {**OWN, "keep_from": ["198.51.100.0/24", "2001:db8::/32"], "reach": "10.9.0.0/24"}
    assert not reaches(kept, "198.51.100.7")
    assert not reaches(kept, "2001:db8::7")
    assert reaches(kept, "10.9.0.1")
    assert not reaches(kept, "10.9.1.1")
    # A subnet that is not private is its own all the same.
    public = {"gateways": "203.0.113.1", "subnets": "203.0.113.0/24"}
    assert not reaches(public, "203.0.113.9")
    assert reaches({**public, "neighbours": True}, "203.0.113.9")


@pytest.mark.parametrize("more", [{}, {"antispoofing": True}])
def test_filters_are_valid_by_libvirts_schema(more: dict[str, Any]) -> None:
    documents = nic_documents(nic(fence=OWN, **more))
    for document in documents:
        assert schema().validate(etree.fromstring(document.xml)), str(schema().error_log)
    said = nic_filter(nic(fence=OWN, **more))
    assert said is not None
    assert said.name == documents[-1].name
    parts = {node.get("filter") for node in etree.fromstring(documents[-1].xml).iter("filterref")}
    assert parts == ({document.name for document in documents[:-1]} if more else set())


def test_with_a_security_group_that_one_says_who_comes_in() -> None:
    def lets_in(fenced: NicSpec) -> bool:
        root = etree.fromstring(
            next(entry.xml for entry in nic_documents(fenced) if "-fence-" in entry.name)
        )
        return root.find("rule[@direction='in']") is not None

    assert lets_in(nic(fence=OWN))
    assert not lets_in(nic(fence=OWN, security_groups="web"))


def test_no_frame_has_a_tag_that_would_take_it_past_the_fence() -> None:
    root = etree.fromstring(nic_documents(nic(fence=OWN, antispoofing=False))[-1].xml)
    tagged = [rule for rule in root.iter("rule") if rule.find("vlan") is not None]
    assert [(rule.get("action"), rule.get("direction")) for rule in tagged] == [("drop", "inout")]
    assert min(root.iter("rule"), key=lambda rule: int(rule.get("priority", ""))) is tagged[0]


@pytest.mark.parametrize("neighbours", [True, False])
def test_ipv6s_own_messages_stay_on_the_link(neighbours: bool) -> None:
    fenced = nic(fence={**OWN, "neighbours": neighbours})
    root = etree.fromstring(nic_documents(fenced)[-1].xml)
    said = [node for node in root.iterfind("rule/icmpv6") if node.get("type") == "136"]
    to = [ipaddress.ip_network(f"{n.get('dstipaddr')}/{n.get('dstipmask')}") for n in said]

    def passes(address: str) -> bool:
        return any(ipaddress.ip_address(address) in net for net in to)

    for address in ("ff02::1", "ff02::1:ff00:7", "fe80::7", "fd00:1::1"):
        assert passes(address)
    assert passes("fd00:1::7") is neighbours
    for address in ("fd00:2::7", "fd00:2::1", "2001:db8::7"):
        assert not passes(address)


texts = st.one_of(
    st.text(), st.sampled_from(["10.0.0.0/8' evil='1", "]]><evil/>", "10.0.0.0/33", "::/0"])
)


@given(st.sampled_from(["gateways", "subnets", "reach", "keep_from"]), texts)
def test_no_text_changes_the_structure(field: str, text: str) -> None:
    try:
        fenced = nic(fence={**OWN, field: text})
    except SpecError:
        return
    root = etree.fromstring(nic_documents(fenced)[-1].xml)
    assert {node.tag for node in root} <= {"uuid", "rule"}
    allowed = {"vlan", "all", "all-ipv6", "udp", "tcp", "icmp", "icmpv6", "udp-ipv6", "tcp-ipv6"}
    assert {inner.tag for rule in root.iter("rule") for inner in rule} <= allowed
