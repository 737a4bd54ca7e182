"""What is read of a network's XML, part by part."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from vmctl.render.network import render_network
from vmctl.render.network_parts import parts_of, served_entry
from vmctl.render.network_record import with_record
from vmctl.render.patching import patch
from vmctl.spec.network import NetworkSpec

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "networks"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
FULL = {
    "name": "lab",
    "mode": "nat",
    "mtu": 1400,
    "domain": "lab.example",
    "dns": {
        "forwarders": ["192.0.2.53"],
        "hosts": [{"address": "192.0.2.9", "names": ["a.lab.example", "b.lab.example"]}],
    },
    "bandwidth": {"inbound": {"average": 10, "peak": 20}},
    "isolate_guests": True,
    "ipv4": {
        "subnet": "192.0.2.0/24",
        "range": {"start": "192.0.2.100", "end": "192.0.2.199"},
        "reservations": [{"mac": "52:54:00:00:00:01", "name": "one", "address": "192.0.2.5"}],
    },
    "ipv6": {
        "subnet": "fd00::/64",
        "reservations": [{"name": "two", "address": "fd00::5"}],
    },
}


def test_all_of_a_spec_is_read() -> None:
    found = parts_of(render_network(NetworkSpec.model_validate(FULL)))
    assert found == {
        "mode": "nat",
        "mtu": "1400",
        "domain": "lab.example",
        "dns.forwarders": "192.0.2.53",
        "dns.hosts.192.0.2.9": "a.lab.example, b.lab.example",
        "bandwidth.inbound": "average 10, peak 20",
        "isolate_guests": "true",
        "ipv4.subnet": "192.0.2.0/24",
        "ipv4.gateway": "192.0.2.1",
        "ipv4.dhcp": "true",
        "ipv4.range": "192.0.2.100-192.0.2.199",
        "ipv4.reservations.52:54:00:00:00:01": "192.0.2.5 one",
        "ipv6.subnet": "fd00::/64",
        "ipv6.gateway": "fd00::1",
        "ipv6.dhcp": "true",
        "ipv6.range": found["ipv6.range"],
        "ipv6.reservations.two": "fd00::5",
    }


@pytest.mark.parametrize("path", ["dns.hosts.192.0.2.9", "ipv4.range", "ipv6.reservations.two"])
def test_an_entry_is_found_by_its_path(path: str) -> None:
    xml = render_network(NetworkSpec.model_validate(FULL))
    node = served_entry(xml, path)
    assert node is not None
    assert parts_of(xml)[path].split("-")[0].split(", ")[0] in etree.tostring(node).decode()
    assert served_entry(xml, f"{path}x") is None


@pytest.mark.parametrize("before", CASES)
def test_every_network_can_become_every_other(before: str) -> None:
    """What others added stays; all that was rendered is as it is wanted."""
    specs = [NetworkSpec.load(GOLDEN / f"{case}.yaml") for case in (before, *CASES)]
    old, *others = (render_network(spec) for spec in specs)
    foreign = old.replace("</network>", "<dnsmasq/></network>")
    for new in others:
        patched = with_record(patch(foreign, old, new), {"name": "x"})
        assert parts_of(patched) == parts_of(new)
        assert "<dnsmasq/>" in patched
