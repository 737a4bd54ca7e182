"""Network XML: golden files, valid by libvirt's schema, and names that stay names.

A case is ``tests/golden/networks/NAME.yaml``, and ``NAME.xml`` what is rendered from it.
``pytest --rewrite-golden`` writes the results.
"""

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
from vmctl.render.network import render_network
from vmctl.render.network_record import recorded_spec
from vmctl.spec.free_subnets import free_ipv4, overlapping, unique_local
from vmctl.spec.network import NetworkMode, NetworkSpec

from .test_pool import fields_of, written_in

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "networks"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
SCHEMA = Path("/usr/share/libvirt/schemas/network.rng")
UUID = "5d4c6a5e-0b0a-4a4b-9b0e-6c7f8e9d0a1b"


@cache
def schema() -> etree.RelaxNG:
    assert SCHEMA.exists(), f"{SCHEMA} is missing: install libvirt-daemon-system or libvirt-dev"
    return etree.RelaxNG(etree.parse(SCHEMA))


def load(case: str) -> NetworkSpec:
    return NetworkSpec.load(GOLDEN / f"{case}.yaml")


@pytest.mark.parametrize("case", CASES)
def test_case_is_rendered_as_it_was(case: str, rewrite_golden: bool) -> None:
    path = GOLDEN / f"{case}.xml"
    xml = render_network(load(case), uuid=UUID)
    if rewrite_golden:
        path.write_text(xml)
    assert xml == path.read_text()


@pytest.mark.parametrize("case", CASES)
def test_case_is_valid_by_libvirts_schema(case: str) -> None:
    assert schema().validate(etree.fromstring(render_network(load(case)))), str(schema().error_log)


@pytest.mark.parametrize("case", CASES)
def test_a_spec_survives_being_written_and_recorded(case: str) -> None:
    spec = load(case)
    assert NetworkSpec.from_yaml(spec.to_yaml()) == spec
    recorded = recorded_spec(etree.fromstring(render_network(spec)))
    assert recorded is not None
    assert NetworkSpec.model_validate(recorded) == spec


def test_there_is_a_case_for_every_mode_and_every_field() -> None:
    assert {load(case).mode for case in CASES} == set(NetworkMode)
    assert {path.name for path in GOLDEN.iterdir()} == {
        f"{case}.{kind}" for case in CASES for kind in ("yaml", "xml")
    }
    # The same model has several places; each of its fields is in one of them.
    written = set().union(*(written_in(load(case)) for case in CASES))
    unwritten = fields_of(NetworkSpec) - written
    elsewhere = {
        path.replace("ipv6.", "ipv4.", 1).replace(".outbound.", ".inbound.") for path in unwritten
    }
    assert elsewhere - written == set()


def test_another_programs_network_has_no_recorded_spec() -> None:
    assert recorded_spec(etree.fromstring("<network><name>default</name></network>")) is None


V4: dict[str, Any] = {"subnet": "192.0.2.0/24"}


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ({"name": "a/b"}, "name", "is not a network's name"),
        ({"name": "a..b"}, "name", "is not a network's name"),
        ({"name": "-x"}, "name", "is not a network's name"),
        ({"mode": "bridge"}, "bridge", "a network of mode bridge needs it"),
        ({"mode": "macvtap"}, "device", "a network of mode macvtap needs it"),
        ({"mode": "macvtap", "device": "eth0", "bridge": "br0"}, "bridge", "leave it out"),
        ({"mode": "isolated", "device": "eth0"}, "device", "leave it out"),
        ({"mode": "bridge", "bridge": "br0", "ipv4": V4}, "ipv4", "leave it out"),
        ({"mode": "bridge", "bridge": "br0", "mtu": 1400}, "mtu", "leave it out"),
        ({"mode": "bridge", "bridge": "br0", "vlan": 3}, "vlan", "needs Open vSwitch"),
        ({"vlan": 3}, "vlan", "leave it out"),
        ({"macvtap_mode": "vepa"}, "macvtap_mode", "leave it out"),
        ({"bridge": "b" * 16}, "bridge", "at most 15"),
        ({"ipv4": "fd00::/64"}, "ipv4", "is not IPv4"),
        ({"ipv6": "192.0.2.0/24"}, "ipv6", "is not IPv6"),
        ({"ipv4": "192.0.2.7/24"}, "ipv4.subnet", "is an address in 192.0.2.0/24"),
        ({"ipv4": "192.0.2.0"}, "ipv4.subnet", "is not a subnet with its prefix length"),
        ({"ipv4": "192.0.2.0/31"}, "ipv4.subnet", "needs a prefix of 1 to 30 bits"),
        ({"ipv4": "224.0.0.0/24"}, "ipv4.subnet", "is not for hosts"),
        ({"ipv6": "fd00::/80"}, "ipv6.subnet", "needs a prefix of 64 bits, or DHCP"),
        ({"ipv6": "fd00::/64", "mtu": 1000}, "mtu", "IPv6 needs at least 1280"),
        ({"ipv4": V4 | {"gateway": "198.51.100.1"}}, "ipv4.gateway", "is not in 192.0.2.0/24"),
        ({"ipv4": V4 | {"gateway": "192.0.2.255"}}, "ipv4.gateway", "broadcast address"),
        ({"ipv4": {"subnet": "auto", "gateway": "192.0.2.1"}}, "ipv4.gateway", "is given"),
        (
            {"ipv4": V4 | {"range": {"start": "192.0.2.9", "end": "192.0.2.3"}}},
            "ipv4.range.end",
            "comes before",
        ),
        (
            {"ipv4": V4 | {"range": {"start": "192.0.2.1", "end": "192.0.2.3"}}},
            "ipv4.range",
            "192.0.2.1 is in it, which is the host's",
        ),
        (
            {"ipv4": V4 | {"dhcp": False, "range": {"start": "192.0.2.3", "end": "192.0.2.9"}}},
            "ipv4.range",
            "needs DHCP",
        ),
        (
            {"ipv4": V4 | {"reservations": [{"address": "192.0.3.5", "mac": "52:54:00:00:00:01"}]}},
            "ipv4.reservations[0].address",
            "is not in 192.0.2.0/24",
        ),
        (
            {"ipv4": V4 | {"reservations": [{"address": "192.0.2.1", "mac": "52:54:00:00:00:01"}]}},
            "ipv4.reservations[0].address",
            "is the host's own",
        ),
        (
            {"ipv4": V4 | {"reservations": [{"address": "192.0.2.5", "mac": "01:54:00:00:00:01"}]}},
            "ipv4.reservations[0].mac",
            "multicast",
        ),
        (
            {"ipv4": V4 | {"reservations": [{"address": "192.0.2.5", "name": "one"}]}},
            "ipv4.reservations[0]",
            "needs the guest's mac",
        ),
        (
            {
                "ipv4": V4
                | {
                    "reservations": [
                        {"address": "192.0.2.5", "mac": "52:54:00:00:00:01"},
                        {"address": "192.0.2.5", "mac": "52:54:00:00:00:02"},
                    ]
                }
            },
            "ipv4.reservations[1].address",
            "is that of [0] already",
        ),
        (
            {
                "ipv4": V4
                | {
                    "reservations": [
                        {"address": "192.0.2.5", "mac": "52:54:00:00:00:01"},
                        {"address": "192.0.2.6", "mac": "52-54-00-00-00-01"},
                    ]
                }
            },
            "ipv4.reservations[1].mac",
            "has an address by ipv4.reservations[0]",
        ),
        (
            {"ipv6": {"subnet": "fd00::/64", "reservations": [{"address": "fd00::5"}]}},
            "ipv6.reservations[0]",
            "needs the guest's name",
        ),
        ({"dns": {"enabled": False, "forwarders": "192.0.2.9"}}, "dns.forwarders", "DNS server"),
        (
            {"dns": {"hosts": [{"address": "192.0.2.9", "names": ["a\nb"]}]}},
            "dns.hosts[0].names[0]",
            "is not a host name",
        ),
        ({"domain": "a b"}, "domain", "is not a host name"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(data: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        NetworkSpec.model_validate({"name": "n", **data})
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert message in found[path], found


_TEXT = st.text(max_size=40)


@given(name=_TEXT, domain=_TEXT, bridge=_TEXT, host=_TEXT)
def test_no_text_changes_the_structure(name: str, domain: str, bridge: str, host: str) -> None:
    """What a fuzzer types is refused, or is a value where it belongs."""
    shape = _shape(_spec("n", "d", "b", "h"))
    try:
        spec = _spec(name, domain, bridge, host)
    except SpecError:
        return
    assert _shape(spec) == shape
    root = etree.fromstring(render_network(spec))
    assert schema().validate(root), str(schema().error_log)
    assert root.findtext("name") == name
    assert "\n" not in name + domain + bridge + host


def _spec(name: str, domain: str, bridge: str, host: str) -> NetworkSpec:
    return NetworkSpec.model_validate(
        {
            "name": name,
            "domain": domain,
            "bridge": bridge,
            "ipv4": "192.0.2.0/24",
            "dns": {"hosts": [{"address": "192.0.2.9", "names": [host]}]},
        }
    )


def _shape(spec: NetworkSpec) -> list[tuple[str, list[str]]]:
    root = etree.fromstring(render_network(spec))
    return [(str(node.tag), sorted(map(str, node.attrib))) for node in root.iter()]


def test_a_free_subnet_is_none_of_those_taken() -> None:
    everything = set(free_ipv4([], start=0))
    assert len(everything) == 1 << 13
    assert set(free_ipv4(["fd00::/8"], start=99)) == everything
    taken = ["10.160.0.0/12", "10.176.0.128/25", "192.0.2.0/24"]
    found = list(free_ipv4(taken, start=(1 << 12) + 1))
    assert found[0] == "10.176.1.0/24"
    assert "10.176.0.0/24" not in found
    assert len(found) == (1 << 12) - 1
    assert all(not ipaddress.ip_network(entry).overlaps(_NET) for entry in found)


_NET = ipaddress.ip_network("10.160.0.0/12")


def test_overlaps_and_unique_local_subnets() -> None:
    others = {"a": ("192.0.2.0/24", "fd00::/64"), "b": ("198.51.100.0/24",)}
    assert overlapping("198.51.100.128/25", others) == "b"
    assert overlapping("fd00::/32", others) == "a"
    assert overlapping("203.0.113.0/24", others) is None
    assert unique_local(0x123456789A) == "fd12:3456:789a::/64"
    assert ipaddress.ip_network(unique_local((1 << 40) - 1)).is_private
