"""Machines made of machines: the same data, and another identity, seen from both sides."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from lxml import etree

import vmctl

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]
WORDS = "kept in every clone"


@pytest.fixture
def source(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    """A running machine with data in it, on the NAT network."""
    spec = vmctl.VMSpec.model_validate(
        {
            "name": f"src{uuid.uuid4().hex[:8]}",
            "image": micro_image,
            "memory": "192MiB",
            "agent": True,
            "nics": [{"network": "default"}],
            "disks": [{"size": "600MiB"}, {"size": "64MiB", "format": "raw"}],
            "cloud_init": {
                "hostname": "the-source",
                "users": [{"name": "admin", "sudo": "ALL=(ALL) NOPASSWD:ALL"}],
                "runcmd": ["echo once >> /var/lib/ran"],
            },
        }
    )
    vm = host.launch(spec)
    try:
        vm.run(f"echo '{WORDS}' > ~/kept && sync", check=True)
        yield vm
    finally:
        vm.delete()


def identity(vm: vmctl.VM) -> dict[str, str]:
    """Return who a guest is, by what it says itself."""
    commands = {
        "machine-id": "cat /etc/machine-id",
        "hostname": "hostname",
        "host key": "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub",
        "mac": "cat /sys/class/net/nic0/address",
        "address": r"/sbin/ip -4 addr show nic0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p'",
        "uuid": "sudo -n cat /sys/class/dmi/id/product_uuid",
        "instance": "cat /var/lib/cloud/data/instance-id",
    }
    return {name: vm.run(line, check=True).stdout.strip() for name, line in commands.items()}


def leases(host: vmctl.Host) -> dict[str, str]:
    """Return the addresses by MAC that libvirt's network gave away."""
    found = host._connection.raw.networkLookupByName("default").DHCPLeases()
    return {entry["mac"]: entry["ipaddr"] for entry in found}


def test_two_clones_share_no_identity(host: vmctl.Host, source: vmctl.VM) -> None:
    notes: list[str] = []
    clones = [source.clone(f"{source.name}-{n}", linked=n == 2, tell=notes.append) for n in (1, 2)]
    try:
        assert [vm.state for vm in clones] == ["shut off"] * 2
        for vm in clones:
            vm.start()
        for vm in clones:
            vm.wait()
        everyone = [identity(vm) for vm in (source, *clones)]
        for what in everyone[0]:
            assert len({entry[what] for entry in everyone}) == 3, (what, everyone)
        given = leases(host)
        assert len({given[entry["mac"]] for entry in everyone}) == 3
        for vm, seen in zip(clones, everyone[1:], strict=True):
            assert seen["hostname"] == vm.name
            assert seen["machine-id"] == vm.uuid.replace("-", "")
            assert seen["host key"] == vm.info().host_key
            assert vm.run("cat ~/kept", check=True).stdout.strip() == WORDS
            # What was done once is not done again.
            assert vm.run("cat /var/lib/ran", check=True).stdout == "once\n"
            root = etree.fromstring(vm.xml(inactive=True))
            assert root.findtext("uuid") == vm.uuid
            assert vm.info().phase == "ready"
            assert "machine-id" not in vm.xml(inactive=True)
        # Nobody writes to a file of another's; the linked one lies on what its source lies on.
        paths = [disk.path for vm in (source, *clones) for disk in vm._domain.disks()]
        assert len(set(paths)) == 6
        with pytest.raises(vmctl.ConflictError, match=f"the machine '{clones[1].name}'"):
            source.delete()
    finally:
        for vm in clones:
            vm.delete()
