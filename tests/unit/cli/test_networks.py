"""`vmctl network`, against libvirt's own test driver."""

from __future__ import annotations

import json
from collections.abc import Callable

from click.testing import Result

Vmctl = Callable[..., Result]
_TEST = ("-c", "test:///default")
_JSON = (*_TEST, "-f", "json")
_KEYS = [
    *("name", "uuid", "mode", "state", "autostart", "persistent", "made_by_vmctl", "bridge"),
    *("domain", "mtu", "subnets", "dhcp", "machines"),
]


def test_networks_are_listed_and_shown(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "network", "list")
    assert done.exit_code == 0
    head, line = done.stdout.splitlines()
    assert head.split() == ["NAME", "MODE", "STATE", "AUTOSTART", "BRIDGE", "SUBNETS", "MACHINES"]
    assert line.split()[:3] == ["default", "nat", "active"]
    (found,) = json.loads(vmctl(*_JSON, "network", "list").stdout)
    assert list(found) == _KEYS
    assert (found["name"], found["made_by_vmctl"]) == ("default", False)
    shown = json.loads(vmctl(*_JSON, "network", "info", "default").stdout)
    assert list(shown) == [*_KEYS, "leases", "reservations"]
    assert shown["subnets"] == ["192.168.122.0/24"]
    assert "192.168.122.2-192.168.122.254" in vmctl(*_TEST, "network", "info", "default").stdout
    missing = vmctl(*_TEST, "network", "info", "none")
    assert missing.exit_code == 3
    assert missing.stderr.startswith("error: there is no network 'none'")


def test_networks_are_stopped_and_started(vmctl: Vmctl) -> None:
    stopped = json.loads(vmctl(*_JSON, "network", "stop", "default").stdout)
    assert (stopped["name"], stopped["state"]) == ("default", "inactive")
    assert vmctl(*_TEST, "network", "stop", "default").stderr == "default: inactive\n"
    started = json.loads(vmctl(*_JSON, "network", "start", "default").stdout)
    assert started["state"] == "active"


def test_a_network_is_made_from_stdin(vmctl: Vmctl) -> None:
    spec = "{name: lab, ipv4: 192.0.2.0/24}"
    made = json.loads(vmctl(*_JSON, "network", "create", "-", stdin=spec).stdout)
    assert list(made) == _KEYS
    assert (made["name"], made["mode"], made["subnets"]) == ("lab", "nat", ["192.0.2.0/24"])
    assert made["made_by_vmctl"]
    assert made["persistent"]
    assert made["autostart"]
    overlap = "{name: lab2, ipv4: 192.168.122.64/26}"
    refused = vmctl(*_TEST, "network", "create", "-", stdin=overlap)
    assert refused.exit_code == 4
    assert "overlaps 192.168.122.0/24, which is the network 'default'" in refused.stderr
    bad = vmctl(*_TEST, "network", "create", "-", stdin="{name: lab, mode: bridge}")
    assert bad.exit_code == 7
    assert "bridge: a network of mode bridge needs it" in bad.stderr


def test_only_what_vmctl_made_is_deleted(vmctl: Vmctl) -> None:
    refused = vmctl(*_TEST, "network", "delete", "default")
    assert refused.exit_code == 4
    assert "vmctl did not make the network 'default'" in refused.stderr
