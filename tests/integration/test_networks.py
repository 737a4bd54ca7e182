"""Networks of every mode that can be run here, with guests on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl.errors import ConflictError, HypervisorError, NotFoundError
from vmctl.hypervisor import private

from .conftest import SpecMaker

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for network namespaces"),
    pytest.mark.usefixtures("nothing_left"),
]

_MAC = "52:54:00:00:00:01"


@pytest.fixture
def name(host: vmctl.Host) -> Iterator[str]:
    """A network's name; whatever is left of it is removed."""
    name = f"n{uuid.uuid4().hex[:8]}"
    before = {entry.name for entry in host.networks.list()}
    yield name
    left = {entry.name for entry in host.networks.list()} - before
    for entry in left:
        host.networks.delete(entry)
    assert left == set()


def spec(name: str, **fields: object) -> vmctl.NetworkSpec:
    return vmctl.NetworkSpec.model_validate({"name": name, **fields})


@pytest.fixture
def enter_network(private_host: private.PrivateHost) -> list[str]:
    """What runs a command in the network namespace of the private host."""
    assert private_host.network_namespace is not None
    return ["nsenter", f"--net={private_host.network_namespace}"]


def test_guests_of_an_isolated_network(
    host: vmctl.Host, make_spec: SpecMaker, name: str, enter_network: list[str]
) -> None:
    """Addresses known beforehand, names, both families, and no way out."""
    made = host.networks.create(
        spec(
            name,
            mode="isolated",
            domain="lab.example",
            ipv4={
                "subnet": "10.20.0.0/24",
                "range": {"start": "10.20.0.100", "end": "10.20.0.199"},
                "reservations": [{"mac": _MAC, "name": "one", "address": "10.20.0.5"}],
            },
            ipv6="fd00:20::/64",
            dns={"hosts": [{"address": "10.20.0.1", "names": "gate.lab.example"}]},
        )
    )
    assert (made.state, made.mode, made.made_by_vmctl) == ("active", "isolated", True)
    assert made.subnets == ("10.20.0.0/24", "fd00:20::/64")
    one = host.launch(make_spec(nics=[{"network": name, "mac": _MAC}]))
    two = host.launch(make_spec(nics=[{"network": name}]))
    said = host.networks.info(name)
    assert said.machines == tuple(sorted([one.name, two.name]))
    reserved, other = host.networks.leases(name)
    assert (reserved.address, reserved.mac) == ("10.20.0.5", _MAC)
    assert 100 <= int(other.address.rpartition(".")[2]) <= 199
    # What the guest sees: the reserved name, the other guest's own, the network's own, and both
    # families; but nothing beyond.
    found = two.run("nslookup one.lab.example; nslookup gate.lab.example", check=True).stdout
    assert "10.20.0.5" in found
    assert "10.20.0.1" in found
    two.run("sudo -n ping -c1 -w5 one", check=True)
    one.run(f"sudo -n ping -c1 -w5 {two.name}", check=True)
    two.run("sudo -n ping -6 -c1 -w5 fd00:20::1", check=True)
    beyond = [*enter_network, "ip", "-4", "-o", "addr", "show", "dev", "virbr0"]
    answer = subprocess.run(beyond, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert "192.168.122.1/" in answer
    assert two.run("grep -c '^[^\t]*\t00000000\t' /proc/net/route").stdout.strip() == "0"

    with pytest.raises(ConflictError, match="has running guests") as caught:
        host.networks.stop(name)
    assert one.name in caught.value.details
    two.stop(timeout=0, force=True)
    one.delete()
    with pytest.raises(ConflictError, match=f"is used by {two.name}"):
        host.networks.delete(name)
    assert host.networks.stop(name).state == "inactive"
    # A machine that needs it starts it.
    two.start()
    assert host.networks.info(name).state == "active"
    assert host.networks.stop(name, force=True).state == "inactive"
    two.delete()
    host.networks.delete(name)
    with pytest.raises(NotFoundError, match=f"there is no network '{name}'"):
        host.networks.info(name)


def test_guests_of_one_network_that_may_not_meet(
    host: vmctl.Host, make_spec: SpecMaker, name: str
) -> None:
    host.networks.create(spec(name, ipv4="10.21.0.0/24", isolate_guests=True))
    one, two = (host.launch(make_spec(nics=[{"network": name}])) for _ in range(2))
    address = next(lease.address for lease in host.networks.leases(name) if lease.name == one.name)
    two.run("sudo -n ping -c1 -w5 10.21.0.1", check=True)
    assert two.run(f"sudo -n ping -c1 -w3 {address}").exit_status != 0
    one.delete()
    # Somebody takes the network away from a machine that is off.
    two.stop(timeout=0, force=True)
    raw = host._connection.raw.networkLookupByName(name)
    raw.destroy()
    raw.undefine()
    with pytest.raises(NotFoundError, match=f"there is no network '{name}'"):
        two.start()
    assert two.state == "shut off"
    two.delete()


def test_what_cant_be_had_leaves_nothing(
    host: vmctl.Host, make_spec: SpecMaker, name: str, enter_network: list[str]
) -> None:
    with pytest.raises(NotFoundError, match="the host has no bridge 'br-none' for the machine"):
        host.launch(make_spec(nics=[{"bridge": "br-none"}]))
    before = {entry.name for entry in host.networks.list()}
    default = host.networks.info("default")
    with pytest.raises(ConflictError, match="there is a network 'default' already"):
        host.networks.create(spec("default", ipv4="10.22.0.0/24"))
    with pytest.raises(ConflictError, match=r"overlaps .*, which is the network 'default'"):
        host.networks.create(spec(name, ipv4="192.168.122.128/25"))
    with pytest.raises(ConflictError, match="vmctl did not make the network 'default'"):
        host.networks.delete("default")
    with pytest.raises(HypervisorError, match="can't start the network") as caught:
        host.networks.create(spec(name, bridge=default.bridge))
    assert default.bridge in caught.value.details
    # A device of the host that has the addresses is known to the host alone.
    link = ["ip", "link", "add", "vmctl-test", "type", "bridge"]
    subprocess.run([*enter_network, *link], check=True)
    try:
        for words in (["addr", "add", "10.22.0.9/24"], ["link", "set", "up"]):
            subprocess.run([*enter_network, "ip", *words, "dev", "vmctl-test"], check=True)
        with pytest.raises(HypervisorError, match="can't start the network"):
            host.networks.create(spec(name, ipv4="10.22.0.0/24"))
        with pytest.raises(NotFoundError, match="the host has no bridge 'br-none'") as missing:
            host.networks.create(spec(name, mode="bridge", bridge="br-none"))
        assert "vmctl-test" in missing.value.hint
        with pytest.raises(NotFoundError, match="the host has no device 'eth-none'"):
            host.networks.create(spec(name, mode="macvtap", device="eth-none"))
        assert {entry.name for entry in host.networks.list()} == before
    finally:
        subprocess.run([*enter_network, "ip", "link", "del", "vmctl-test"], check=True)
    assert host.networks.create(spec(name, ipv4="10.22.0.0/24")).subnets == ("10.22.0.0/24",)
    host.networks.delete(name)
    assert host.networks.info("default") == default


def test_networks_that_are_made_at_once(host: vmctl.Host, name: str) -> None:
    """Each has a subnet of its own; of two of one name, one is made."""
    results: dict[str, object] = {}

    def create(key: str, network: str) -> None:
        try:
            results[key] = host.networks.create(spec(network, ipv4="auto", ipv6="auto"))
        except vmctl.VmctlError as error:
            results[key] = error

    names = [f"{name}-{index}" for index in range(6)]
    calls = [*((entry, entry) for entry in names), ("twin-a", name), ("twin-b", name)]
    threads = [threading.Thread(target=create, args=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    made = [found for found in results.values() if isinstance(found, vmctl.NetworkInfo)]
    subnets = [subnet for found in made for subnet in found.subnets]
    assert len(set(subnets)) == len(subnets) == 2 * len(made)
    assert {found.name for found in made} == {*names, name}
    twins = [results["twin-a"], results["twin-b"]]
    for failed in (entry for entry in twins if isinstance(entry, vmctl.VmctlError)):
        assert isinstance(failed, ConflictError)
    for entry in (*names, name):
        host.networks.delete(entry)


_KILLED = """
import sys, vmctl
from vmctl.hypervisor import network_making
def dies(*args, **options):
    print("up", flush=True)
    sys.stdin.read()
network_making.keep = dies
with vmctl.connect(sys.argv[1]) as host:
    host.networks.create(vmctl.NetworkSpec(name=sys.argv[2], mode="isolated"))
"""


@pytest.mark.parametrize("ending", ["again", "apply", "gc", "delete"])
def test_a_client_is_killed_in_the_middle(
    host: vmctl.Host, private_host: private.PrivateHost, name: str, ending: str
) -> None:
    uri = f"private:{private_host.name}"
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, uri, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.send_signal(signal.SIGKILL)
    half = host.networks.info(name)
    assert (half.state, half.persistent, half.made_by_vmctl) == ("active", False, True)
    with pytest.raises(ConflictError, match="already"):
        host.networks.create(spec(name, mode="isolated", mtu=1400))
    if ending == "again":
        whole = host.networks.create(spec(name, mode="isolated"))
        assert (whole.persistent, whole.autostart) == (True, True)
        assert (whole.bridge, whole.subnets) == (half.bridge, half.subnets)
    if ending == "apply":
        done = host.networks.apply(spec(name, mode="isolated"))
        assert (done.plan.exists, done.network.persistent) == (False, True)
    if ending == "gc":
        (found,) = host.gc(dry_run=True)
        assert (found.name, found.phase, found.networks) == (name, "creating-network", (name,))
        assert host.gc() == [found]
        assert name not in {entry.name for entry in host.networks.list()}
        return
    host.networks.delete(name)


_AT_WORK = """
import sys, vmctl
from vmctl.hypervisor import network_making
keep = network_making.keep
def waits(*args, **options):
    print("up", flush=True)
    sys.stdin.read()
    keep(*args, **options)
network_making.keep = waits
with vmctl.connect(sys.argv[1]) as host:
    host.networks.create(vmctl.NetworkSpec(name=sys.argv[2], mode="isolated"))
"""


def test_a_network_that_is_being_made_is_left_alone(
    host: vmctl.Host, private_host: private.PrivateHost, name: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _AT_WORK, f"private:{private_host.name}", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    ) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        assert client.stdout.readline() == b"up\n"
        assert host.gc() == []
        with pytest.raises(ConflictError, match="already"):
            host.networks.create(spec(name, mode="isolated"))
        client.stdin.close()
        assert client.wait(60) == 0
    assert host.networks.info(name).persistent
    assert host.gc() == []
    host.networks.delete(name)


def test_a_network_that_cant_be_kept_is_undone(
    host: vmctl.Host, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmctl.hypervisor import network_making

    def refuse(*_args: object, **_options: object) -> None:
        raise HypervisorError("no", hint="none")

    monkeypatch.setattr(network_making, "keep", refuse)
    with pytest.raises(HypervisorError, match="no"):
        host.networks.create(spec(name))
    assert name not in {entry.name for entry in host.networks.list()}
