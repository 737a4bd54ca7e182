"""`vmctl network`, against libvirt's own test driver."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from click.testing import Result

from .conftest import RECORD

Vmctl = Callable[..., Result]
_TEST = ("-c", "test:///default")
_JSON = (*_TEST, "-f", "json")
_KEYS = [
    *("name", "uuid", "mode", "state", "autostart", "persistent", "made_by_vmctl", "tenant"),
    *("shared", "bridge"),
    *("domain", "mtu", "subnets", "dhcp", "machines"),
]


def test_networks_are_listed_and_shown(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "network", "list")
    assert done.exit_code == 0
    head, line = done.stdout.splitlines()
    assert head.split() == [
        "NAME",
        "MODE",
        "STATE",
        "AUTOSTART",
        "BRIDGE",
        "SUBNETS",
        "TENANT",
        "MACHINES",
    ]
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


_NODE = """
<node><network><name>lab</name><domain name='lab.example'/><bridge name='virbr7'/>
<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.2' end='192.0.2.254'/>
<host mac='52:54:00:00:00:01' name='web' ip='192.0.2.7'/></dhcp></ip></network>
<domain type='test'><name>web</name><uuid>{uuid}</uuid><memory>65536</memory>
<os><type>hvm</type></os><metadata>{record}</metadata>
<devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='lab'/>
</interface><interface type='user'><mac address='52:54:00:00:00:02'/></interface></devices>
</domain></node>
"""


def _host(folder: Path) -> str:
    nics = [
        {"network": "lab", "mac": "52:54:00:00:00:01"},
        {"network": "gone", "mac": "52:54:00:00:00:03", "address": "198.51.100.9/24"},
    ]
    record = replace(RECORD, spec={"name": "web", "nics": nics})
    node = folder / "node.xml"
    node.write_text(_NODE.format(uuid=record.uuid, record=record.to_xml()), encoding="utf-8")
    return f"test://{node}"


def test_each_source_of_an_address_says_something(vmctl: Vmctl, tmp_path: Path) -> None:
    done = vmctl("-c", _host(tmp_path), "addresses", "web", "-f", "json")
    found = json.loads(done.stdout)
    assert {tuple(entry) for entry in found} == {("mac", "network", "source", "addresses", "why")}
    said = {(entry["network"], entry["source"]): entry for entry in found}
    assert list(said) == [
        *(("lab", source) for source in ("spec", "reservation", "lease", "agent", "arp")),
        *(("user", source) for source in ("forward", "agent")),
    ]
    assert said["lab", "reservation"]["addresses"] == ["192.0.2.7"]
    for key, entry in said.items():
        assert bool(entry["addresses"]) != bool(entry["why"]), key
    assert "192.0.2.7" in vmctl("-c", _host(tmp_path), "addresses", "web").stdout


def test_a_hosts_file_is_printed_and_written(vmctl: Vmctl, tmp_path: Path) -> None:
    uri, file = _host(tmp_path), tmp_path / "hosts"
    printed = vmctl("-c", uri, "hosts-file")
    assert printed.stdout == "192.0.2.7\tweb.lab.example web\n"
    (line,) = json.loads(vmctl("-c", uri, "hosts-file", "-f", "json").stdout)
    assert line == {"address": "192.0.2.7", "names": ["web.lab.example", "web"]}
    file.write_text("127.0.0.1\tlocalhost\n")
    command = ("-c", uri, "hosts-file", "--network", "lab", "--file", str(file))
    assert vmctl(*command).stderr == f"{file}: written\n"
    assert vmctl(*command).stderr == f"{file}: unchanged\n"
    mark = f"vmctl hosts-file {uri} lab"
    assert file.read_text() == (
        f"127.0.0.1\tlocalhost\n# BEGIN {mark}\n192.0.2.7\tweb.lab.example web\n# END {mark}\n"
    )
    assert json.loads(vmctl(*command, "-f", "json").stdout) == {"file": str(file), "changed": False}
    missing = vmctl("-c", uri, "hosts-file", "--network", "none")
    assert (missing.exit_code, missing.stdout) == (3, "")


def test_a_network_is_applied(vmctl: Vmctl) -> None:
    refused = vmctl(*_TEST, "network", "apply", "-", stdin="{name: default}")
    assert refused.exit_code == 4
    assert "vmctl did not make the network 'default'" in refused.stderr
    data = json.loads(
        vmctl(*_JSON, "network", "apply", "-", "--dry-run", stdin="{name: lab}").stdout
    )
    assert list(data) == [
        *("name", "exists", "differences", "drift", "pending", "made", "waiting", "network")
    ]
    assert (data["exists"], data["network"]) == (False, None)
    made = json.loads(vmctl(*_JSON, "network", "apply", "-", stdin="{name: lab}").stdout)
    assert (made["exists"], made["network"]["state"]) == (False, "active")
    usage = vmctl(*_TEST, "network", "apply", "-", "--force", stdin="{name: lab}")
    assert usage.exit_code == 2
