"""The full Debian guest, with the real cloud-init, by BIOS and by UEFI: seen from inside."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import vmctl

from .conftest import pool_volumes

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.full_guest,
    pytest.mark.usefixtures("nothing_left"),
]

# cloud-init lets only root read the public half as well.
_HOST_KEY = "sudo -n cat /etc/ssh/ssh_host_ed25519_key.pub"


@pytest.fixture
def both_families(host: vmctl.Host) -> Iterator[str]:
    """A network that gives addresses of both families."""
    spec = {"name": "both", "mode": "isolated", "ipv4": "10.41.0.0/24"}
    spec6 = {"subnet": "fd00:41::/64", "dhcp": True}
    host.networks.create(vmctl.NetworkSpec.model_validate({**spec, "ipv6": spec6}))
    yield "both"
    host.networks.delete("both")


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_provisioned_as_told(
    host: vmctl.Host, debian_image: str, firmware: str, both_families: str
) -> None:
    address = {"bios": "192.168.122.210", "uefi": "192.168.122.211"}[firmware]
    spec = vmctl.VMSpec.model_validate(
        {
            "name": f"full-{firmware}",
            "image": debian_image,
            "memory": "768MiB",
            "firmware": firmware,
            "disks": [{"size": "4GiB"}],
            "nics": [
                {
                    "network": "default",
                    "address": f"{address}/24",
                    "gateway": "192.168.122.1",
                    "nameservers": ["192.168.122.1"],
                },
                *([{"network": both_families}] if firmware == "uefi" else []),
            ],
            "cloud_init": {
                "hostname": f"inside-{firmware}",
                "timezone": "Europe/Zurich",
                "users": [
                    {
                        "name": "deployer",
                        "groups": ["adm"],
                        "sudo": "ALL=(ALL) NOPASSWD:ALL",
                        "shell": "/bin/bash",
                    }
                ],
                "packages": ["hello"],
                "write_files": [
                    {"path": "/etc/motto", "content": 'sëmper "eadem"\n', "permissions": "0640"}
                ],
                "runcmd": [["sh", "-c", "echo $(id -un) > /var/lib/ran"]],
            },
        }
    )
    vm = host.launch(spec)

    assert vm.info().firmware == firmware
    assert (vm.run("test -d /sys/firmware/efi").exit_status == 0) is (firmware == "uefi")
    assert vm.run("hostname", check=True).stdout.strip() == f"inside-{firmware}"
    assert vm.run("id -un", check=True).stdout.strip() == "deployer"
    assert "adm" in vm.run("id -nG", check=True).stdout.split()
    assert vm.run("sudo -n cat /etc/motto", check=True).stdout == 'sëmper "eadem"\n'
    assert vm.run("stat -c %a /etc/motto", check=True).stdout.strip() == "640"
    assert vm.run("cat /var/lib/ran", check=True).stdout.strip() == "root"
    state = vm.run("dpkg-query -W -f '${db:Status-Status}' hello", check=True).stdout
    assert state == "installed"
    assert vm.run("hello", check=True).stdout == "Hello, world!\n"
    assert vm.run("cat /etc/timezone", check=True).stdout.strip() == "Europe/Zurich"
    assert f"{address}/24" in vm.run("ip -4 addr", check=True).stdout
    assert "default via 192.168.122.1" in vm.run("ip route", check=True).stdout
    reserved = [entry for nic in vm.info().nics for entry in nic.reserved]
    # One of each family; that of IPv6 is the guest's by its name.
    assert len(reserved) == (2 if firmware == "uefi" else 0)
    seen = vm.run("ip -o addr", check=True).stdout
    assert all(f" {entry}/" in seen for entry in reserved), seen
    # The disk was grown to what the spec says, and the root file system with it.
    assert int(vm.run("findmnt -bno SIZE /", check=True).stdout) > 3.5 * (1 << 30)
    result = json.loads(vm.run("cat /run/cloud-init/result.json", check=True).stdout)
    assert result["v1"]["errors"] == []
    # What vmctl sent is valid by cloud-init's own schema, and gone from where it came.
    checked = vm.run("sudo -n cloud-init schema --system", timeout=120)
    assert (checked.exit_status, "Error" in checked.stderr) == (0, False), checked.stderr
    assert not [name for name in pool_volumes(host) if "seed" in name]
    inside = vm.run(_HOST_KEY, check=True).stdout.split()[:2]
    assert inside == vm.info().host_key.split()[:2]
    assert vm.run("ls /etc/ssh/ssh_host_*_key", check=True).stdout.count("\n") == 1
    assert vm.run("systemctl is-system-running --wait", timeout=120).stdout.strip() == "running"

    # A later boot has no seed, and is the same guest all the same.
    vm.restart(timeout=120)
    vm.wait()
    assert vm.run("hostname", check=True).stdout.strip() == f"inside-{firmware}"
    seen = vm.run("ip -o addr", check=True).stdout
    assert all(f" {entry}/" in seen for entry in [address, *reserved]), seen
    assert vm.run(_HOST_KEY, check=True).stdout.split()[:2] == inside

    vm.stop(timeout=120)
    if firmware == "bios":
        _a_clone_is_another(host, vm)
    vm.delete()


def _a_clone_is_another(host: vmctl.Host, vm: vmctl.VM) -> None:
    """See that a clone is another guest from its first packet on, and else what its source was."""
    with pytest.raises(vmctl.UnsupportedError, match="192.168.122.210, which a clone can't have"):
        vm.clone("full-clone")
    clone = vm.clone("full-clone", values={"nics[0].address": None}, start=True)
    try:
        assert clone.run("hostname", check=True).stdout.strip() == "full-clone"
        machine_id = clone.run("cat /etc/machine-id", check=True).stdout.strip()
        assert machine_id == clone.uuid.replace("-", "")
        inside = clone.run(_HOST_KEY, check=True).stdout.split()[:2]
        assert inside == clone.info().host_key.split()[:2] != vm.info().host_key.split()[:2]
        # It asked for an address once, by its own name: that of its source would be another lease.
        (nic,) = clone.info().nics
        leases = host._connection.raw.networkLookupByName("default").DHCPLeases(nic.mac)
        assert len(leases) == 1
        assert leases[0]["ipaddr"] in clone.run("ip -4 addr", check=True).stdout
        # What was told to the source, and done since, is as it was; nothing is done again.
        assert clone.run("sudo -n cat /etc/motto", check=True).stdout == 'sëmper "eadem"\n'
        assert clone.run("cat /var/lib/ran", check=True).stdout == "root\n"
        result = json.loads(clone.run("cat /run/cloud-init/result.json", check=True).stdout)
        assert result["v1"]["errors"] == []
        assert "machine-id" not in clone.xml(inactive=True)
    finally:
        clone.delete()


def test_a_failing_cloud_init_is_told_with_its_module_and_log(
    host: vmctl.Host, debian_image: str
) -> None:
    spec = vmctl.VMSpec.model_validate(
        {
            "name": "full-fails",
            "image": debian_image,
            "memory": "768MiB",
            "nics": [{"user": True}],
            "cloud_init": {
                "packages": ["no-such-package-anywhere"],
                "runcmd": ["echo the end is near; exit 3"],
            },
        }
    )
    with pytest.raises(
        vmctl.ProvisioningError, match="cloud-init failed in 'full-fails'"
    ) as caught:
        host.launch(spec)
    error = caught.value
    assert error.module in {"package-update-upgrade-install", "package_update_upgrade_install"}
    assert "scripts" in error.details
    assert "the end is near" in error.details
    with pytest.raises(vmctl.NotFoundError):
        host.get("full-fails")
