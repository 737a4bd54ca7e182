"""Addresses that are known before a guest boots, and names by which guests find each other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from lxml import etree

import vmctl
from vmctl import changes, launch
from vmctl.errors import SpecError, UsageError
from vmctl.hypervisor import private
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.reservations import Served, served_by
from vmctl.networking import reserving, taken

from .conftest import SpecMaker, pool_volumes

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for network namespaces"),
    pytest.mark.usefixtures("nothing_left", "nothing_kept"),
]

_ROOT = Path(__file__).resolve().parents[2]
# Each boot takes ten seconds of a core: so many are launched by hand, with VMCTL_TEST_GUESTS=20.
_GUESTS = int(os.environ.get("VMCTL_TEST_GUESTS", "0"))


@pytest.fixture(scope="module")
def lab(host: vmctl.Host) -> Iterator[str]:
    """A network of both families, which gives addresses of both."""
    name = f"lab{uuid.uuid4().hex[:6]}"
    spec = {
        "name": name,
        "mode": "isolated",
        "domain": "lab.example",
        "ipv4": {"subnet": "10.40.0.0/24", "range": {"start": "10.40.0.100", "end": "10.40.0.199"}},
        "ipv6": {
            "subnet": "fd00:40::/64",
            "range": {"start": "fd00:40::100", "end": "fd00:40::1ff"},
        },
    }
    host.networks.create(vmctl.NetworkSpec.model_validate(spec))
    yield name
    host.networks.delete(name)


def kept_by(host: vmctl.Host, network: str) -> list[tuple[str, str]]:
    """Return what libvirt itself says that a network keeps: as it runs, and as it starts."""
    raw = host._connection.raw.networkLookupByName(network)
    texts = [raw.XMLDesc(flag) for flag in ((0, 1) if raw.isActive() else (1,))]
    found = [
        [
            (node.get("ip", ""), node.get("name", ""))
            for node in etree.fromstring(text).iterfind("ip/dhcp/host")
        ]
        + [
            (node.get("ip", ""), node.findtext("hostname", ""))
            for node in etree.fromstring(text).iterfind("dns/host")
        ]
        for text in texts
    ]
    assert all(entry == found[0] for entry in found)
    return found[0]


@pytest.fixture
def nothing_kept(host: vmctl.Host, lab: str) -> Iterator[None]:
    """Check that a test leaves no address taken."""
    yield
    assert kept_by(host, lab) == []


def nothing_kept_by(network: str, host: vmctl.Host) -> Served:
    """Return what a network does for its guests, as if it kept nothing for any."""
    served = served_by(host._connection, network)
    return replace(served, subnets=tuple(replace(entry, kept=()) for entry in served.subnets))


def reserved(vm: vmctl.VM) -> list[str]:
    return [address for nic in vm.info().nics for address in nic.reserved]


def said(vm: vmctl.VM) -> dict[str, tuple[str, ...] | str]:
    return {entry.source: entry.addresses or entry.why for entry in vm.addresses()}


def test_known_before_boot_and_the_same_after_a_restart(
    host: vmctl.Host, make_spec: SpecMaker, lab: str
) -> None:
    vm = host.create(make_spec(nics=[{"network": lab, "antispoofing": True}], agent=True))
    four, six = reserved(vm)
    assert 100 <= int(four.rpartition(".")[2]) <= 199
    assert 0x100 <= int(six.rpartition(":")[2], 16) <= 0x1FF
    assert kept_by(host, lab) == [(four, vm.name), (six, vm.name)]
    # Before it boots, everywhere.
    assert vm.info().addresses == (four, six)
    for details in (False, True):
        (line,) = (line for line in host.list(details=details) if line.name == vm.name)
        assert four in line.addresses
    before = said(vm)
    assert before["reservation"] == (four, six)
    assert before["lease"] == "the guest has not asked for an address"
    assert before["agent"] == before["arp"] == "the machine is shut off"
    (kept, _six) = host.networks.reservations(lab)
    assert (kept.address, kept.name, kept.machine) == (four, vm.name, vm.name)

    static = host.launch(
        make_spec(
            nics=[{"network": lab, "address": "10.40.0.20/24", "nameservers": "10.40.0.1"}],
            agent=False,
        )
    )
    assert (("10.40.0.20", static.name)) in kept_by(host, lab)
    vm.start()
    vm.wait()
    assert f" {four}/24 " in vm.run("/sbin/ip -4 -o addr", check=True).stdout
    running = said(vm)
    assert running["lease"] == (four,)
    assert four in running["agent"]
    assert running["spec"] == "it has no static address"
    assert said(static)["spec"] == ("10.40.0.20",)
    assert said(static)["reservation"] == ("10.40.0.20",)
    assert "agent" in said(static)["agent"]
    assert said(static)["arp"] == ("10.40.0.20",)

    # Names, from inside and for the client.
    vm.run(f"sudo -n ping -c1 -w9 {static.name}.lab.example", check=True)
    static.run(f"sudo -n ping -c1 -w9 {vm.name}.lab.example", check=True)
    assert "10.40.0.20" in vm.run(f"nslookup {static.name}", check=True).stdout
    lines = dict(line.split("\t") for line in host.hosts_file(lab).splitlines())
    assert lines[four] == f"{vm.name}.lab.example {vm.name}"
    assert lines["10.40.0.20"] == f"{static.name}.lab.example {static.name}"
    assert host.hosts_file("default") == ""

    # What it wrote last must be on its disk when it boots anew.
    vm.stop(timeout=60)
    host.networks.stop(lab, force=True)
    assert kept_by(host, lab)[0] == (four, vm.name)
    vm.start()
    vm.wait()
    assert f" {four}/24 " in vm.run("/sbin/ip -4 -o addr", check=True).stdout
    static.stop(timeout=0, force=True)
    old = static.name
    static.rename(f"{old}-b")
    assert ("10.40.0.20", old) in kept_by(host, lab)
    vm.delete()
    static.delete()


def test_a_fixed_address_is_had_again_at_once(
    host: vmctl.Host, make_spec: SpecMaker, lab: str
) -> None:
    """The DHCP server still has the lease of the machine that is gone."""
    spec = make_spec(nics=[{"network": lab, "reserve": "10.40.0.50"}])

    def given_after(before: int) -> int | None:
        """Return when the lease ends, if it was given, or prolonged, since one that ended then."""
        found = {lease.address: lease.expires for lease in host.networks.leases(lab)}
        return found.get("10.40.0.50") if found.get("10.40.0.50", 0) > before else None

    ends = 0
    for name in (spec.name, f"{spec.name}-2"):
        vm = host.launch(spec.replace(name=name), wait=False)
        assert reserved(vm) == ["10.40.0.50"]
        deadline = time.monotonic() + 200
        given = Signal().wait_for(partial(given_after, ends), deadline=deadline, recheck=0.5)
        assert given is not None, vm.console_log()[-500:]
        ends = given
        vm.delete()


def test_what_cant_be_had_is_refused_before_anything_is_made(
    host: vmctl.Host, make_spec: SpecMaker, lab: str
) -> None:
    mac = "52:54:00:00:40:01"
    first = host.create(
        make_spec(
            nics=[
                {"network": lab, "reserve": ["10.40.0.60", "fd00:40::60"], "mac": mac},
                {"network": lab, "address": "10.40.0.61/24"},
            ]
        )
    )
    machines, volumes, kept = host.list(), pool_volumes(host), kept_by(host, lab)
    assert {address for address, _name in kept} == {"10.40.0.60", "10.40.0.61", "fd00:40::60"}
    refused = {
        "10.41.0.5": f"nics[0].reserve: 10.41.0.5 is not in the network '{lab}', which has",
        "fd00:41::5": "fd00:41::5 is not in the network",
        "10.40.0.1": "nics[0].reserve: 10.40.0.1 is the host's own",
        "10.40.0.255": "is the network's own or its broadcast address",
        "10.40.0.60": f"nics[0].reserve: 10.40.0.60 is that of the machine '{first.name}' already",
        "fd00:40::60": f"fd00:40::60 is that of the machine '{first.name}' already",
        "10.40.0.61": f"10.40.0.61 is that of the machine '{first.name}' already",
    }
    for address, words in refused.items():
        with pytest.raises(SpecError) as caught:
            host.create(make_spec(nics=[{"network": lab, "reserve": address}]))
        assert words in str(caught.value)
        if address != "10.41.0.5" and ":" not in address:
            with pytest.raises(SpecError, match=r"nics\[0\].address: "):
                host.create(make_spec(nics=[{"network": lab, "address": f"{address}/23"}]))
    nics: dict[str, list[dict[str, object]]] = {
        f"nics[0].mac: {mac} is that of the machine '{first.name}'": [
            {"network": "default", "mac": mac}
        ],
        "nics[1].reserve: 10.40.0.70 is nics[0]'s already": [
            {"network": lab, "reserve": "10.40.0.70"},
            {"network": lab, "reserve": "10.40.0.70"},
        ],
        "multicast": [{"network": lab, "mac": "01:00:5e:00:00:01"}],
        "nics[0].address: 192.0.2.9 is not in the network 'default'": [
            {"network": "default", "address": "192.0.2.9/24"}
        ],
        "a NIC of type user has no DHCP server": [{"user": True, "reserve": True}],
    }
    for words, wanted in nics.items():
        with pytest.raises(SpecError) as caught:
            host.create(make_spec(nics=wanted))
        assert words in str(caught.value)
    with pytest.raises(SpecError, match=r"not valid: mac: 52:54:00:00:40:01 is that of"):
        host.create(make_spec(nics=[])).nics.attach(
            vmctl.NicSpec.model_validate({"network": lab, "mac": mac})
        )
    for line in host.list():
        if line.name not in {machine.name for machine in machines}:
            host.get(line.name).delete()
    assert (host.list(), pool_volumes(host), kept_by(host, lab)) == (machines, volumes, kept)
    first.delete()


def test_devices_clones_and_networks_of_others(
    host: vmctl.Host, make_spec: SpecMaker, lab: str
) -> None:
    """An address comes with a NIC and goes with it; a clone has its own; others' are named only."""
    vm = host.create(make_spec(nics=[{"network": lab, "reserve": "10.40.0.80"}], cloud_init=None))
    nic = vm.nics.attach(vmctl.NicSpec.model_validate({"network": lab, "reserve": "10.40.0.81"}))
    assert reserved(vm) == ["10.40.0.80", "10.40.0.81"]
    # Only one of its NICs can have its name.
    assert kept_by(host, lab) == [("10.40.0.80", vm.name), ("10.40.0.81", "")]
    with pytest.raises(SpecError, match=r"the NIC is not valid: reserve: 10.40.0.81 is nics"):
        vm.nics.attach(vmctl.NicSpec.model_validate({"network": lab, "reserve": "10.40.0.81"}))
    vm.nics.detach(nic.mac)
    assert reserved(vm) == ["10.40.0.80"]

    clone = vm.clone(f"{vm.name}-c")
    (own, *_more) = reserved(clone)
    assert own not in {"10.40.0.80", "10.40.0.81"}
    with pytest.raises(UsageError, match="10.40.0.80 is reserved for nics"):
        vm.clone(f"{vm.name}-d", values={"nics[0].reserve": "10.40.0.80"})
    other = vm.clone(f"{vm.name}-d", values={"nics[0].reserve": "10.40.0.82"})
    assert reserved(other) == ["10.40.0.82"]
    clone.delete()
    other.delete()

    # On another network it needs another address, and none where it was.
    host.networks.create(vmctl.NetworkSpec(name=f"{lab}-2", mode="isolated"))
    vm.nics.attach(vmctl.NicSpec.model_validate({"network": lab, "mac": "52:54:00:00:40:02"}))
    left = vm.info().nics[1].reserved[0]
    applied = vm.apply({"nics[1].network": f"{lab}-2"})
    assert applied.made == ("nics.52:54:00:00:40:02.network",)
    ((joined, _named),) = kept_by(host, f"{lab}-2")
    assert reserved(vm) == ["10.40.0.80", joined]
    assert left not in {address for address, _name in kept_by(host, lab)}
    vm.delete()
    assert kept_by(host, f"{lab}-2") == []
    host.networks.delete(f"{lab}-2")

    def of_default() -> list[tuple[str, str]]:
        return kept_by(host, "default")

    before = of_default()
    not_asked = host.create(make_spec(nics=[{"network": "default"}]))
    assert of_default() == before
    asked = host.create(make_spec(nics=[{"network": "default", "reserve": True}]))
    assert [name for _address, name in of_default() if name] == [asked.name]
    not_asked.delete()
    asked.delete()
    assert of_default() == before


def test_a_change_of_the_network_leaves_them(host: vmctl.Host, make_spec: SpecMaker) -> None:
    name = f"lab{uuid.uuid4().hex[:6]}"
    span = {"start": "10.41.0.100", "end": "10.41.0.199"}
    spec = vmctl.NetworkSpec.model_validate(
        {"name": name, "mode": "isolated", "ipv4": {"subnet": "10.41.0.0/24", "range": span}}
    )
    host.networks.create(spec)
    asks = host.create(make_spec(nics=[{"network": name}], cloud_init=None))
    static = host.create(make_spec(nics=[{"network": name, "address": "10.41.0.77/24"}]))
    before = kept_by(host, name)
    assert len(before) == 3
    assert host.networks.compare(spec).drift == ()
    more = spec.replace(dns={"hosts": [{"address": "10.41.0.1", "names": "gate"}]})
    done = host.networks.apply(more)
    assert (done.made, done.waiting) == (("dns.hosts.10.41.0.1",), ())
    assert sorted(kept_by(host, name)) == sorted([*before, ("10.41.0.1", "gate")])
    host.networks.apply(spec)
    assert kept_by(host, name) == before
    # Whose it is can't change under machines.
    with pytest.raises(vmctl.ConflictError, match="made anew for tenant"):
        host.networks.apply(spec.replace(tenant="red"))
    asks.delete()
    static.delete()
    assert host.networks.apply(spec.replace(tenant="red")).made == ("tenant",)
    assert host.networks.info(name).tenant == "red"
    assert kept_by(host, name) == []
    host.networks.delete(name)


def allowed(vm: vmctl.VM) -> list[set[str]]:
    """Return the addresses that each NIC's filter keeps it to, besides link-local ones."""
    return [
        {
            node.get("value", "")
            for node in nic.iterfind("filterref/parameter")
            if not node.get("value", "").startswith("fe80:")
        }
        for nic in etree.fromstring(vm.xml(inactive=True)).iterfind("devices/interface")
    ]


def test_filters_know_what_is_reserved(host: vmctl.Host, make_spec: SpecMaker, lab: str) -> None:
    nic = {"network": lab, "antispoofing": True}
    vm = host.create(make_spec(nics=[nic], cloud_init=None))
    assert all(set(reserved(vm)) <= addresses for addresses in allowed(vm))
    fixed = vmctl.NicSpec.model_validate({**nic, "reserve": "10.40.0.90"})
    vm.nics.attach(fixed)
    assert "10.40.0.90" in allowed(vm)[1]
    vm.nics.detach(vm.info().nics[1].mac)
    clone = vm.clone(f"{vm.name}-c")
    assert len(reserved(clone)) == 2
    (others,) = allowed(clone)
    assert set(reserved(clone)) <= others
    assert not set(reserved(vm)) & others
    host.networks.create(vmctl.NetworkSpec(name=f"{lab}-3", mode="isolated"))
    clone.apply({"nics[0].network": f"{lab}-3"})
    (joined,) = reserved(clone)
    (others,) = allowed(clone)
    assert joined in others
    vm.delete()
    clone.delete()
    host.networks.delete(f"{lab}-3")


def test_what_fails_later_frees_it(
    host: vmctl.Host, make_spec: SpecMaker, lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[list[tuple[str, str]]] = []

    def fail(*_args: object, **_options: object) -> None:
        there.append(kept_by(host, lab))
        raise vmctl.HypervisorError("no", hint="none")

    spec = make_spec(nics=[{"network": lab, "reserve": "10.40.0.85"}])
    with monkeypatch.context() as patch:
        patch.setattr(launch._Transaction, "_make_volumes", fail)
        with pytest.raises(vmctl.HypervisorError, match="no"):
            host.create(spec)
    vm = host.create(make_spec(nics=[{"network": lab, "reserve": False}]))
    assert kept_by(host, lab) == []
    with monkeypatch.context() as patch:
        patch.setattr("vmctl.hypervisor.tuning.attach_nic", fail)
        with pytest.raises(vmctl.HypervisorError, match="no"):
            vm.nics.attach(spec.nics[0])
        assert kept_by(host, lab) == []
        # What is kept for a NIC that isn't there is found, by whatever way it came to that.
        settle = changes.settle
        settled: list[str] = []

        def settle_once(domain: Domain) -> None:
            if settled:
                fail()
            settled.append(domain.name)
            settle(domain)

        patch.setattr("vmctl.changes.settle", settle_once)
        with pytest.raises(vmctl.RollbackError):
            vm.nics.attach(spec.nics[0])
    assert there == [[("10.40.0.85", name)] for name in (spec.name, vm.name, vm.name, vm.name)]
    (found,) = host.gc()
    assert (found.name, found.phase, found.addresses) == (vm.name, "changing", ("10.40.0.85",))
    vm.delete()

    # One that has yet to learn that another has the address does not free it.
    first = host.create(spec)
    with monkeypatch.context() as patch:
        patch.setattr(taken.Neighbours, "why_taken", lambda *_args, **_options: None)
        patch.setattr(taken, "served_by", lambda connection, name: nothing_kept_by(lab, host))
        patch.setattr(reserving, "reserve", fail)
        named = spec.replace(name=f"{spec.name}-2", cloud_init={"hostname": spec.name})
        with pytest.raises(vmctl.HypervisorError, match="no"):
            host.create(named)
    assert kept_by(host, lab) == [("10.40.0.85", spec.name)]
    first.delete()


def test_two_clients_that_want_the_same_address(
    private_host: private.PrivateHost, make_spec: SpecMaker, lab: str
) -> None:
    results: list[object] = []
    barrier = threading.Barrier(2)

    def create() -> None:
        with vmctl.connect(f"private:{private_host.name}") as own:
            spec = make_spec(nics=[{"network": lab, "reserve": "10.40.0.90"}])
            barrier.wait()
            try:
                results.append(own.create(spec).name)
            except vmctl.VmctlError as error:
                results.append(error)

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    (name,) = [entry for entry in results if isinstance(entry, str)]
    (error,) = [entry for entry in results if isinstance(entry, vmctl.VmctlError)]
    assert isinstance(error, SpecError)
    assert "nics[0].reserve: 10.40.0.90 is " in str(error)
    assert name in str(error)
    with vmctl.connect(f"private:{private_host.name}") as own:
        assert [line.name for line in own.list() if line.name == name] == [name]
        assert kept_by(own, lab) == [("10.40.0.90", name)]
        own.get(name).delete()


@pytest.mark.parametrize("where", ["before virNetworkUpdate", "after virNetworkUpdate"])
def test_a_client_is_killed_while_it_reserves(
    host: vmctl.Host, private_host: private.PrivateHost, make_spec: SpecMaker, lab: str, where: str
) -> None:
    spec = make_spec(nics=[{"network": lab, "reserve": "10.40.0.95"}])
    for at in range(1, 10):
        command = ["tests.integration.killing_client", f"private:{private_host.name}", str(at)]
        done = subprocess.run(
            [sys.executable, "-m", *command],
            input=spec.to_yaml(),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            cwd=_ROOT,
        )
        assert done.returncode == -9
        there = kept_by(host, lab)
        left = host.gc()
        assert kept_by(host, lab) == []
        if done.stdout.strip() == where:
            break
    assert done.stdout.strip() == where
    assert there == ([("10.40.0.95", spec.name)] if where.startswith("after") else [])
    (found,) = [entry for entry in left if entry.name == spec.name]
    assert found.addresses == ("10.40.0.95",)


_LAUNCH = """
import sys, threading, vmctl
uri, text, *names = sys.argv[1:]
spec = vmctl.VMSpec.from_yaml(text)
with vmctl.connect(uri) as host:
    def launch(name):
        host.launch(spec.replace(name=name), wait=False)
    threads = [threading.Thread(target=launch, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
_DELETE = """
import sys, vmctl
with vmctl.connect(sys.argv[1]) as host:
    for name in sys.argv[3:]:
        host.get(name).delete()
"""


def _by_four(code: str, uri: str, text: str, names: list[str]) -> None:
    clients = [
        subprocess.Popen([sys.executable, "-c", code, uri, text, *names[part::4]], cwd=_ROOT)
        for part in range(4)
    ]
    assert [client.wait(600) for client in clients] == [0] * 4


# So many boots on two cores, of which other tests have one.
@pytest.mark.timeout(900)
@pytest.mark.skipif(not _GUESTS, reason="by hand, with VMCTL_TEST_GUESTS=20")
def test_many_guests_at_once(
    host: vmctl.Host, private_host: private.PrivateHost, make_spec: SpecMaker, lab: str
) -> None:
    """Launched by four processes into one network that is off."""
    host.networks.stop(lab)
    uri, spec = f"private:{private_host.name}", make_spec(nics=[{"network": lab}], memory="96MiB")
    names = [f"{spec.name}-{number}" for number in range(_GUESTS)]
    _by_four(_LAUNCH, uri, spec.to_yaml(), names)
    addresses = {name: reserved(host.get(name)) for name in names}
    fours, sixes = zip(*addresses.values(), strict=True)
    assert len(set(fours)) == len(set(sixes)) == _GUESTS
    expected = [(address, name) for name, both in addresses.items() for address in both]
    assert sorted(kept_by(host, lab)) == sorted(expected)

    def all_leased() -> bool | None:
        leases = {lease.address for lease in host.networks.leases(lab)}
        return True if leases >= set(fours) else None

    assert Signal().wait_for(all_leased, deadline=time.monotonic() + 600, recheck=0.5)
    one = host.get(names[0])
    one.wait()
    script = "; ".join(f"sudo -n ping -c1 -w60 {name}.lab.example || exit 1" for name in names)
    pinged = one.run(script, check=True).stdout
    for address in fours:
        assert f"({address})" in pinged
    leases = {lease.address: lease.name for lease in host.networks.leases(lab)}
    assert {leases[address]: address for address in fours} == dict(zip(names, fours, strict=True))
    _by_four(_DELETE, uri, "", names)
    assert kept_by(host, lab) == []
