"""Packet filters: golden files, addresses, valid by libvirt's schema, and words that stay words."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from vmctl.errors import SpecError, UsageError
from vmctl.hypervisor import bridge_filtering
from vmctl.render.attached import render_nic
from vmctl.render.clone import CloneIdentity, clone_definition
from vmctl.render.filter_names import eui64
from vmctl.render.nwfilter import NicFilter, nic_documents, nic_filter
from vmctl.render.security_group import recorded_group, render_group
from vmctl.render.templates import Templates
from vmctl.spec import NicSpec, SecurityGroupSpec, VMSpec

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "filters"
SCHEMA = Path("/usr/share/libvirt/schemas/nwfilter.rng")
MAC = "52:54:00:00:00:01"
OWN = "fe80::5054:ff:fe00:1"
MEMBERS = {"clients": ("192.0.2.7", "fd00::7")}


@cache
def schema() -> etree.RelaxNG:
    assert SCHEMA.exists(), f"{SCHEMA} is missing: install libvirt-daemon-system"
    return etree.RelaxNG(etree.parse(SCHEMA))


def nic(**fields: Any) -> NicSpec:
    given = {"network": "n", "mac": MAC, "antispoofing": True, **fields}
    spec = {"name": "a", "image": "base.qcow2", "nics": [given]}
    return VMSpec.model_validate(spec).resolved().nics[0]


GROUP = SecurityGroupSpec.model_validate(
    {
        "name": "web",
        "description": "'/><x y=\"",
        "rules": [
            {"direction": "ingress", "protocol": "tcp", "ports": [80, "8000-8099"]},
            {"direction": "ingress", "group": "clients"},
            {"direction": "ingress", "protocol": "icmp", "cidr": "192.0.2.0/24"},
            {"direction": "ingress", "protocol": "icmpv6"},
            {"direction": "ingress", "action": "drop", "cidr": "fd00::66"},
            {"direction": "egress", "protocol": "udp", "ports": 53, "cidr": "192.0.2.1"},
        ],
    }
)
_FULL = nic(security_groups=["web", "ssh"])
DOCUMENTS = {
    "antispoofing": nic_documents(_FULL)[0],
    "antispoofing-ipv6": nic_documents(nic(address="fd00::5/64"))[0],
    "stateful": nic_documents(_FULL)[1],
    "nic": nic_documents(_FULL)[2],
    "record": render_group(GROUP, MEMBERS)[0],
    "group": render_group(GROUP, MEMBERS)[1],
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_case_is_rendered_as_it_was(case: str, rewrite_golden: bool) -> None:
    path = GOLDEN / f"{case}.xml"
    if rewrite_golden:
        path.write_text(DOCUMENTS[case].xml)
    assert DOCUMENTS[case].xml == path.read_text()


@pytest.mark.parametrize("case", DOCUMENTS)
def test_case_is_valid_by_libvirts_schema(case: str) -> None:
    # That of libvirt 9.0 does not know of a state of IPv6, which libvirt itself takes.
    text = re.sub(r"<all-ipv6 state='[A-Z,]*'/>", "<all-ipv6/>", DOCUMENTS[case].xml)
    assert schema().validate(etree.fromstring(text)), str(schema().error_log)


def test_what_says_the_same_has_the_same_name_and_nothing_else_has() -> None:
    names = {document.name for document in DOCUMENTS.values()}
    assert len(names) == len(DOCUMENTS)
    assert nic_documents(nic(security_groups=["ssh", "web"])) == nic_documents(_FULL)
    assert nic_documents(nic(antispoofing=False)) == ()


@pytest.mark.parametrize(
    ("fields", "known", "parameters"),
    [
        ({}, (), [("CTRL_IP_LEARNING", "dhcp"), ("IPV6", OWN)]),
        ({}, ("192.0.2.9", "fd00::9"), [("IP", "192.0.2.9"), ("IPV6", OWN), ("IPV6", "fd00::9")]),
        ({"address": "192.0.2.5/24"}, (), [("IP", "192.0.2.5"), ("IPV6", OWN)]),
        ({"address": "fd00::5/64"}, (OWN,), [("IPV6", OWN), ("IPV6", "fd00::5")]),
        (
            {"address": ["192.0.2.5/24", "192.0.2.6/24"]},
            ("192.0.2.5",),
            [("IP", "192.0.2.5"), ("IP", "192.0.2.6"), ("IPV6", OWN)],
        ),
    ],
)
def test_a_nics_addresses(
    fields: dict[str, Any], known: tuple[str, ...], parameters: list[tuple[str, str]]
) -> None:
    said = nic_filter(nic(**fields), known)
    assert said is not None
    assert list(said.parameters) == parameters


def test_no_rule_has_two_of_the_nics_variables() -> None:
    """For each of several addresses libvirt makes a rule; together with another it makes none."""
    for name in ("antispoofing", "antispoofing-ipv6"):
        for node in etree.fromstring(DOCUMENTS[name].xml).iterfind("rule/*"):
            assert len({value for value in node.attrib.values() if value in {"$IP", "$IPV6"}}) <= 1
            if {"$IP", "$IPV6"} & set(node.attrib.values()):
                assert "$MAC" not in node.attrib.values()


def test_the_address_of_a_mac() -> None:
    # The example of RFC 4291, appendix A.
    assert eui64("36:56:78:9a:bc:de") == "fe80::3456:78ff:fe9a:bcde"
    assert eui64("52:54:00:00:00:01", "fd00:20::/64") == "fd00:20::5054:ff:fe00:1"


def test_a_clones_filter_has_its_own_addresses() -> None:
    definition = (
        "<domain><name>a</name><uuid>aaaa-b</uuid><devices><interface type='network'>"
        f"<mac address='{MAC}'/><filterref filter='vmctl-x'><parameter name='IP' "
        "value='192.0.2.5'/></filterref></interface></devices></domain>"
    )
    own = "52:54:00:00:00:02"
    said = NicFilter("vmctl-x", (("IP", "192.0.2.6"), ("IPV6", eui64(own))))
    identity = CloneIdentity(
        name="b", uuid="2", namespace="urn:x", macs={MAC: own}, filters={own: said}
    )
    xml, _notes = clone_definition(definition, identity)
    found = etree.fromstring(xml).findall("devices/interface/filterref/parameter")
    assert [(node.get("name"), node.get("value")) for node in found] == list(said.parameters)


def test_a_template_that_leaves_the_filter_out_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "domain_templates" / "devices"
    folder.mkdir(parents=True)
    (folder / "nic.xml.j2").write_text("<interface type='network'/>\n")
    chain = Templates(tmp_path)
    assert "interface" in render_nic(nic(antispoofing=False), templates=chain)
    with pytest.raises(UsageError, match="leaves a NIC's packet filter out"):
        render_nic(nic(), templates=chain)


def test_a_kernel_that_hides_bridges_from_iptables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_filtering, "_SETTINGS", tmp_path)
    seen = bridge_filtering.bridges_of_uri_are_seen
    assert seen("qemu:///system") is False
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        (tmp_path / name).write_text("1\n")
    assert seen("qemu:///system") is True
    (tmp_path / "bridge-nf-call-ip6tables").write_text("0\n")
    assert seen("qemu:///system") is False
    assert seen("qemu+unix:///system?socket=/run/x") is True
    assert seen("qemu+ssh://node1/system") is None


# -- security groups ------------------------------------------------------------------------------


def test_a_group_is_recorded_in_its_filter() -> None:
    assert recorded_group(etree.fromstring(DOCUMENTS["group"].xml)) == GROUP
    assert recorded_group(etree.fromstring("<filter name='clean-traffic'/>")) is None
    assert SecurityGroupSpec.from_yaml(GROUP.to_yaml()) == GROUP


def rule(**fields: Any) -> dict[str, Any]:
    return {"direction": "ingress", **fields}


@pytest.mark.parametrize(
    ("rules", "path", "message"),
    [
        ([rule(ports=80)], "rules[0].ports", "protocol all has no ports"),
        ([rule(protocol="icmp", ports=80)], "rules[0].ports", "protocol icmp has no ports"),
        ([rule(protocol="tcp", ports="90-80")], "rules[0].ports[0]", "ends before it begins"),
        ([rule(protocol="tcp", ports=0)], "rules[0].ports[0]", "not between 1 and 65535"),
        ([rule(protocol="tcp", ports="http")], "rules[0].ports[0]", "neither a port nor a range"),
        ([rule(protocol="tcp", ports=[80, "70-90"])], "rules[0].ports", "70-90 is there already"),
        ([rule(cidr="192.0.2.7/24")], "rules[0].cidr", "is an address in 192.0.2.0/24"),
        ([rule(cidr="a'/><b")], "rules[0].cidr", "neither an address nor a subnet"),
        ([rule(protocol="icmp", cidr="fd00::/64")], "rules[0].cidr", "is IPv6, and icmp is not"),
        ([rule(protocol="icmpv6", cidr="192.0.2.7")], "rules[0].cidr", "is IPv4, and icmpv6"),
        ([rule(cidr="192.0.2.7", group="a")], "rules[0].group", "is a cidr already"),
        ([rule(group="A b")], "rules[0].group", "is not a security group's name"),
        ([rule(), rule(action="drop")], "rules[1]", "contradicts rules[0]"),
        (
            [rule(protocol="tcp", ports=[80, 81]), rule(protocol="tcp", ports=81, action="drop")],
            "rules[1]",
            "contradicts rules[0]",
        ),
        (
            [rule(cidr="192.0.2.7"), rule(cidr="192.0.2.7/32")],
            "rules[1]",
            "says what rules[0] says",
        ),
    ],
)
def test_what_is_wrong_with_rules(rules: list[dict[str, Any]], path: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        SecurityGroupSpec.model_validate({"name": "g", "rules": rules})
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert message in found[path], found


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"network": "n", "security_groups": ["a"], "antispoofing": False}, "antispoofing", "must"),
        ({"user": True, "antispoofing": True}, "antispoofing", "has no packet filter"),
        ({"user": True, "security_groups": ["a"]}, "security_groups", "has no packet filter"),
        ({"network": "n", "security_groups": ["a", "a"]}, "security_groups", "twice"),
        ({"network": "n", "security_groups": ["a'b"]}, "security_groups[0]", "is not a security"),
        (
            {"network": "n", "antispoofing": True, "dhcp": True, "address": "192.0.2.5/24"},
            "dhcp",
            "not both",
        ),
    ],
)
def test_what_is_wrong_with_a_nic(fields: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        NicSpec.model_validate(fields)
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert message in found[path], found


_TEXT = st.text(max_size=40)
_NAMES = st.one_of(_TEXT, st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True))


@given(name=_NAMES, description=_TEXT, group=_NAMES, cidr=_TEXT, port=_TEXT, member=_NAMES)
def test_no_text_changes_the_structure(
    name: str, description: str, group: str, cidr: str, port: str, member: str
) -> None:
    """What a fuzzer types is refused, or is a value where it belongs."""
    shape = _shape(_group("g", "d", "p", "192.0.2.7", "80"))
    for words in (
        (name, description, group, "192.0.2.7", "80"),
        ("g", "d", "p", cidr, "80"),
        ("g", "d", "p", "192.0.2.7", port),
    ):
        try:
            spec = _group(*words)
        except SpecError:
            continue
        # A subnet has its mask besides, and a range its end.
        optional = {"srcipmask", "dstportend"}
        assert _shape(spec, optional) == shape
        document = render_group(spec, {words[2]: ["192.0.2.9"]})[1]
        root = etree.fromstring(document.xml)
        assert schema().validate(root), str(schema().error_log)
        assert recorded_group(root) == spec
    try:
        wanted = nic(security_groups=[member])
    except SpecError:
        return
    assert len(etree.fromstring(nic_documents(wanted)[-1].xml).findall("filterref")) == 3


def _group(name: str, description: str, group: str, cidr: str, port: str) -> SecurityGroupSpec:
    rules = [rule(group=group), rule(protocol="tcp", cidr=cidr, ports=port)]
    return SecurityGroupSpec.model_validate(
        {"name": name, "description": description, "rules": rules}
    )


def _shape(
    spec: SecurityGroupSpec, optional: set[str] | None = None
) -> list[tuple[str, list[str]]]:
    peers = [str(entry.group) for entry in spec.rules if entry.group]
    root = etree.fromstring(render_group(spec, dict.fromkeys(peers, ("192.0.2.9",)))[1].xml)
    return [
        (
            str(node.tag).replace("-ipv6", ""),
            sorted(set(map(str, node.attrib)) - (optional or set())),
        )
        for node in root.iter()
        if isinstance(node.tag, str)
    ]
