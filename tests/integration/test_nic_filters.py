"""Packet filters of a machine through its life: launched, changed, saved, started, deleted."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from lxml import etree

import vmctl
from vmctl import nic_filters
from vmctl.errors import NotFoundError, UnsupportedError
from vmctl.hypervisor import nwfilters
from vmctl.spec import NicSpec

from .conftest import SpecMaker

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for network namespaces"),
    pytest.mark.usefixtures("nothing_left"),
]

_MAC = "52:54:00:5e:77:01"
_MORE = "52:54:00:5e:77:02"


def group(name: str, *rules: dict[str, object]) -> vmctl.SecurityGroupSpec:
    return vmctl.SecurityGroupSpec.model_validate({"name": name, "rules": rules})


@pytest.fixture
def network(host: vmctl.Host) -> Iterator[str]:
    """A network that keeps an address for one guest."""
    name = f"f{uuid.uuid4().hex[:8]}"
    kept = {"mac": _MAC, "address": "10.67.0.5"}
    ipv4 = {"subnet": "10.67.0.0/24", "reservations": [kept]}
    spec = {"name": name, "mode": "isolated", "ipv4": ipv4, "ipv6": "fd00:67::/64"}
    host.networks.create(vmctl.NetworkSpec.model_validate(spec))
    yield name
    host.networks.delete(name)


def said(host: vmctl.Host, vm: vmctl.VM, mac: str, *, later: bool = False) -> list[str]:
    """Return what libvirt has as a NIC's filter and its addresses, past vmctl."""
    xml = host._connection.raw.lookupByUUIDString(vm.uuid).XMLDesc(2 if later else 0)
    found = etree.fromstring(xml).find(f"devices/interface/mac[@address='{mac}']/../filterref")
    if found is None:
        return []
    return [found.get("filter", ""), *(node.get("value", "") for node in found)]


def peers(host: vmctl.Host, name: str) -> set[str]:
    """Return the addresses that the rules of a group are about, past vmctl."""
    xml = host._connection.raw.nwfilterLookupByName(f"vmctl-group-{name}").XMLDesc(0)
    matches = etree.fromstring(xml).iterfind("rule/*[@srcipaddr]")
    return {node.get("srcipaddr", "") for node in matches}


def test_a_machines_life_in_a_group(host: vmctl.Host, make_spec: SpecMaker, network: str) -> None:
    own = {"10.67.0.5", "fe80::5054:ff:fe5e:7701", "fd00:67::5054:ff:fe5e:7701"}
    with pytest.raises(NotFoundError, match="in the security group 'clients', which isn't there"):
        host.launch(make_spec(nics=[{"network": network, "security_groups": "clients"}]))
    with pytest.raises(NotFoundError, match="names 'clients', which isn't there"):
        host.security_groups.create(group("inner", {"direction": "ingress", "group": "clients"}))
    host.security_groups.create(group("clients"))
    host.security_groups.create(group("inner", {"direction": "ingress", "group": "clients"}))
    assert peers(host, "inner") == set()
    nic = {"network": network, "mac": _MAC, "security_groups": ["clients"]}
    spec = make_spec(nics=[nic])
    vm = host.launch(spec)
    try:
        # What the network keeps for it is known before it boots, and its filter holds it to that.
        name, *addresses = said(host, vm, _MAC)
        assert (name.startswith("vmctl-nic-"), set(addresses)) == (True, own)
        assert said(host, vm, _MAC, later=True) == [name, *addresses]
        assert peers(host, "inner") == own
        assert host.security_groups.info("clients").machines == (vm.name,)
        vm.run("sudo -n ping -c1 -w10 10.67.0.1", check=True)
        vm.run("sudo -n ping -6 -c1 -w10 fd00:67::1", check=True)
        # Another address than its own is of no use to it.
        vm.run("sudo -n ip addr add 10.67.0.9/24 dev nic0", check=True)
        assert vm.run("sudo -n ping -c1 -w2 -I 10.67.0.9 10.67.0.1").exit_status != 0

        # One that comes while it runs learns its address from the answer of the DHCP server.
        more = NicSpec.model_validate({"network": network, "mac": _MORE, "antispoofing": True})
        assert vm.nics.attach(more).filter.startswith("vmctl-antispoofing-")
        learned = "until ping -c1 -W1 -I eth0 10.67.0.1 >/dev/null 2>&1; do usleep 100000; done"
        vm.run(f"sudo -n sh -c '{learned}'", check=True, timeout=90)
        vm.nics.detach(_MORE)

        # Saved, and on a host that lost what it brought: it has all of it again.
        vm.save()
        for lost in (name, *(f for f in nwfilters.list_names(host._connection) if "-anti" in f)):
            host._connection.raw.nwfilterLookupByName(lost).undefine()
        vm.start()
        assert said(host, vm, _MAC) == [name, *addresses]
        vm.run("sudo -n ping -c1 -w10 10.67.0.1", check=True)

        # By intent: out of the group, and then without any filter.
        wanted = spec.replace(nics=[{"network": network, "mac": _MAC, "antispoofing": True}])
        assert len(vm.apply(wanted).made) == 1
        assert said(host, vm, _MAC)[0].startswith("vmctl-antispoofing-")
        assert peers(host, "inner") == set()
        wanted = spec.replace(nics=[{"network": network, "mac": _MAC}])
        vm.apply(wanted)
        assert said(host, vm, _MAC) == []
        vm.apply(spec)
        assert (said(host, vm, _MAC)[0], peers(host, "inner")) == (name, own)
    finally:
        vm.delete()
    assert peers(host, "inner") == set()
    host.security_groups.delete("inner")
    host.security_groups.delete("clients")
    assert nwfilters.list_names(host._connection) == set()


def test_what_a_killed_client_left_and_what_cant_be_filtered(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    connection = host._connection
    nic = NicSpec.model_validate({"network": "default", "mac": _MAC, "antispoofing": True})
    nic_filters.ensure(connection, [nic])
    (left,) = nwfilters.list_names(connection)
    assert [(entry.name, entry.phase) for entry in host.gc(dry_run=True)] == [(left, "filtering")]
    assert [entry.name for entry in host.gc()] == [left]
    assert (nwfilters.list_names(connection), host.gc()) == (set(), [])
    name = f"f{uuid.uuid4().hex[:8]}"
    routed = {"name": name, "mode": "route", "ipv4": "10.68.0.0/24"}
    host.networks.create(vmctl.NetworkSpec.model_validate(routed))
    host.security_groups.create(group("some"))
    try:
        with pytest.raises(UnsupportedError, match="a security group could not keep it out"):
            host.launch(make_spec(nics=[{"network": name, "security_groups": "some"}]))
    finally:
        host.networks.delete(name)
        host.security_groups.delete("some")
