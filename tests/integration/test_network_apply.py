"""Networks that are changed by their specs, under a guest that sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vmctl
from vmctl.errors import ConflictError, HypervisorError
from vmctl.hypervisor import network_changing, private

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for network namespaces"),
]

_ROOT = Path(__file__).resolve().parents[2]
_MAC = "52:54:00:00:61:01"
_OTHER = "52:54:00:00:61:02"


def wanted(name: str, **fields: Any) -> vmctl.NetworkSpec:
    """Return the network's spec, with other fields; of ``ipv4``, with others in it."""
    subnet = {
        "subnet": "10.61.0.0/24",
        "range": {"start": "10.61.0.100", "end": "10.61.0.199"},
        "reservations": [{"mac": _MAC, "name": "one", "address": "10.61.0.5"}],
    }
    ipv4 = subnet | fields.pop("ipv4", {})
    given = {"name": name, "mode": "isolated", "domain": "lab.example", "ipv4": ipv4, **fields}
    return vmctl.NetworkSpec.model_validate(given)


@pytest.fixture(scope="module")
def vm(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    """A guest on a network of its own."""
    name = f"a{uuid.uuid4().hex[:8]}"
    assert host.networks.apply(wanted(name)).plan.exists is False
    machine = host.launch(
        vmctl.VMSpec.model_validate(
            {
                "name": name,
                "image": micro_image,
                "memory": "192MiB",
                "nics": [{"network": name, "mac": _MAC}],
            }
        )
    )
    yield machine
    machine.delete()
    host.networks.delete(name)


@pytest.fixture
def name(host: vmctl.Host, vm: vmctl.VM) -> Iterator[str]:
    """Its name; afterwards the network is as it was."""
    yield vm.name
    host.networks.apply(wanted(vm.name), restart=False)


def live(host: vmctl.Host, name: str) -> str:
    return network_changing.definitions(host._connection, name).running or ""


def later(host: vmctl.Host, name: str) -> str:
    return network_changing.definitions(host._connection, name).next


def test_what_changes_under_a_guest(host: vmctl.Host, vm: vmctl.VM, name: str) -> None:
    assert host.networks.apply(wanted(name)).made == ()
    # Somebody else's entry, which stays.
    raw = host._connection.raw.networkLookupByName(name)
    foreign = f"<host mac='{_OTHER}' name='foreign' ip='10.61.0.66'/>"
    raw.update(3, 4, -1, foreign, 3)
    new = wanted(
        name,
        autostart=False,
        ipv4={
            "range": {"start": "10.61.0.150", "end": "10.61.0.199"},
            "reservations": [
                {"mac": _MAC, "name": "first", "address": "10.61.0.5"},
                {"mac": "52:54:00:00:61:03", "address": "10.61.0.7"},
            ],
        },
        dns={"hosts": [{"address": "10.61.0.1", "names": ["gate.lab.example"]}]},
    )
    plan = host.networks.compare(new)
    assert plan.drift == (f"ipv4.reservations.{_OTHER}",)
    assert {entry.when for entry in plan.differences} == {"live"}
    done = host.networks.apply(new, plan=plan)
    assert set(done.made) == {
        "autostart",
        "ipv4.range",
        f"ipv4.reservations.{_MAC}",
        "ipv4.reservations.52:54:00:00:61:03",
        "dns.hosts.10.61.0.1",
    }
    assert done.waiting == ()
    assert (done.network.autostart, done.network.dhcp) == (False, ("10.61.0.150-10.61.0.199",))
    for xml in (live(host, name), later(host, name)):
        assert "10.61.0.7" in xml
        assert "foreign" in xml
        assert "'one'" not in xml
    assert "10.61.0.1" in vm.run("nslookup gate.lab.example", check=True).stdout
    assert "10.61.0.5" in vm.run("nslookup first.lab.example", check=True).stdout
    # A second time changes nothing, and what was shown must still hold.
    assert host.networks.apply(new).made == ()
    with pytest.raises(ConflictError, match="was changed meanwhile"):
        host.networks.apply(new, plan=plan)
    raw.update(2, 4, -1, foreign, 3)


def test_what_waits_for_a_restart(host: vmctl.Host, vm: vmctl.VM, name: str) -> None:
    new = wanted(name, mtu=1400, ipv6="fd00:61::/64")
    done = host.networks.apply(new)
    assert done.waiting == ("mtu", "ipv6.subnet", "ipv6.gateway")
    assert "1400" in later(host, name)
    assert "1400" not in live(host, name)
    assert host.networks.compare(new).pending == ("mtu", "ipv6.subnet", "ipv6.gateway")
    vm.run("sudo -n ping -c1 -w5 10.61.0.1", check=True)
    with pytest.raises(ConflictError, match="can't be restarted: it has running guests") as caught:
        host.networks.apply(new, restart=True)
    assert caught.value.details == vm.name
    # A mode can't be had under machines, whatever is forced; and nothing of it was done.
    with pytest.raises(ConflictError, match="made anew for mode") as caught:
        host.networks.apply(wanted(name, mode="nat", mtu=1300), restart=True, force=True)
    assert vm.name in caught.value.details
    assert "1400" in later(host, name)
    # An address that another network has.
    with pytest.raises(ConflictError, match="overlaps .*, which is the network 'default'"):
        host.networks.apply(wanted(name, ipv6="fd00:61::/64", ipv4=_OVERLAPPING))
    assert host.networks.apply(wanted(name)).waiting == ()


_OVERLAPPING: dict[str, Any] = {
    "subnet": "192.168.122.0/25",
    "range": {"start": "192.168.122.10", "end": "192.168.122.20"},
    "reservations": [],
}


def test_a_failure_takes_all_of_it_back(
    host: vmctl.Host, vm: vmctl.VM, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = live(host, name), later(host, name)
    # libvirt refuses the second of two entries: somebody else has given the address away.
    raw = host._connection.raw.networkLookupByName(name)
    foreign = f"<host mac='{_OTHER}' name='foreign' ip='10.61.0.66'/>"
    raw.update(3, 4, -1, foreign, 3)
    mine = {"reservations": [{"mac": "52:54:00:00:61:04", "address": "10.61.0.66"}]}
    with pytest.raises(HypervisorError, match="can't be given another ipv4.reservations"):
        host.networks.apply(wanted(name, ipv4=mine, dns=_NAMES))
    assert "gate.lab.example" not in live(host, name) + later(host, name)
    raw.update(2, 4, -1, foreign, 3)
    hosts = wanted(name, dns=_NAMES, mtu=1450)

    def refuse(*_args: object, **_options: object) -> None:
        raise HypervisorError("no", hint="none")

    with monkeypatch.context() as patched:
        patched.setattr(network_changing, "set_autostart", refuse)
        with pytest.raises(HypervisorError, match="no"):
            host.networks.apply(hosts.replace(autostart=False))
    assert (live(host, name), later(host, name)) == before
    assert vm.run("nslookup gate.lab.example").exit_status != 0


_NAMES = {"hosts": [{"address": "10.61.0.1", "names": ["gate.lab.example"]}]}

_KILLED = """
import json, sys, vmctl
from vmctl.hypervisor import network_changing
def dies(*args, **options):
    print("there", flush=True)
    sys.stdin.read()
network_changing.define = dies
with vmctl.connect(sys.argv[1]) as host:
    host.networks.apply(vmctl.NetworkSpec.from_yaml(sys.argv[2]))
"""


def test_a_client_is_killed_in_the_middle(
    host: vmctl.Host, private_host: private.PrivateHost, vm: vmctl.VM, name: str
) -> None:
    new = wanted(name, dns=_NAMES)
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, f"private:{private_host.name}", new.to_yaml()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        client.send_signal(signal.SIGKILL)
    assert "gate.lab.example" in live(host, name)
    assert "gate.lab.example" not in later(host, name)
    assert host.networks.compare(new).pending == ("dns.hosts.10.61.0.1",)
    assert host.networks.apply(new).made == ("dns.hosts.10.61.0.1",)
    assert "gate.lab.example" in later(host, name)
    assert host.networks.apply(wanted(name)).made == ("dns.hosts.10.61.0.1",)
    assert "gate.lab.example" not in live(host, name)


_DEVICE = (
    "ip link add vmctl-test type bridge",
    "ip addr add 10.63.0.9/24 dev vmctl-test",
    "ip link set vmctl-test up",
)


def test_a_restart(host: vmctl.Host, private_host: private.PrivateHost) -> None:
    """One without guests, on the command line; and one that can't start as it shall be."""
    name = f"r{uuid.uuid4().hex[:8]}"

    def call(spec: vmctl.NetworkSpec, *words: str, code: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "vmctl.cli.main", "-f", "json", "network", "apply", "-", *words],
            input=spec.to_yaml(),
            capture_output=True,
            text=True,
            check=False,
            cwd=_ROOT,
            env={**os.environ, "VMCTL_URI": f"private:{private_host.name}"},
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr

    enter = ["nsenter", f"--net={private_host.network_namespace}"]
    apart: dict[str, Any] = {"subnet": "10.62.0.0/24", "range": None, "reservations": []}

    def wanted(name: str, **fields: Any) -> vmctl.NetworkSpec:
        given = {"name": name, "mode": "isolated", "ipv4": apart, **fields}
        return vmctl.NetworkSpec.model_validate(given)

    assert call(wanted(name), "--dry-run")["exists"] is False
    assert name not in {entry.name for entry in host.networks.list()}
    assert call(wanted(name))["network"]["state"] == "active"
    try:
        done = call(wanted(name, mode="nat", bridge="virbr-r"), "--restart")
        assert (done["network"]["mode"], done["network"]["bridge"]) == ("nat", "virbr-r")
        assert done["waiting"] == []
        assert "mode='nat'" in live(host, name)
        # A bridge that another network has; and addresses that a device of the host has, which
        # only the start can tell.
        default = host.networks.info("default").bridge
        said = call(wanted(name, mode="nat", bridge=default), "--restart", code=1)
        assert f"libvirt refuses what the network '{name}' shall be" in said
        for words in _DEVICE:
            subprocess.run([*enter, *words.split()], check=True)
        try:
            other = apart | {"subnet": "10.63.0.0/24"}
            new = wanted(name, mode="nat", bridge="virbr-r", ipv4=other)
            assert "can't be started as it is now defined" in call(new, "--restart", code=1)
        finally:
            subprocess.run([*enter, "ip", "link", "del", "vmctl-test"], check=True)
        now = host.networks.info(name)
        assert (now.state, now.bridge, now.subnets) == ("active", "virbr-r", ("10.62.0.0/24",))
        assert "10.62.0.1" in later(host, name)
        host.networks.stop(name)
        done = host.networks.apply(wanted(name, mode="nat", bridge="virbr-r"), restart=True)
        assert done.network.state == "active"
        with pytest.raises(ConflictError, match="vmctl did not make the network 'default'"):
            host.networks.apply(wanted("default"))
    finally:
        host.networks.delete(name)
