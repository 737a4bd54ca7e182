"""The seed's network configuration, version 2.

Source: https://cloudinit.readthedocs.io/en/latest/reference/network-config-format-v2.html
"""

from __future__ import annotations

import ipaddress
from typing import Any

from vmctl.errors import UsageError
from vmctl.spec import NicSpec, VMSpec

__all__ = ["link_files", "network_config"]

_DEFAULT_ROUTE = {4: "0.0.0.0/0", 6: "::/0"}  # older cloud-inits don't know the word "default"


def network_config(spec: VMSpec) -> dict[str, Any]:
    """Give the network configuration: the spec's own, or one made from its NICs.

    Raises:
        UsageError: A NIC has no MAC address yet.
    """
    if spec.cloud_init is not None and spec.cloud_init.network_config is not None:
        return spec.cloud_init.network_config
    ethernets = {f"nic{index}": _ethernet(index, nic) for index, nic in enumerate(spec.nics)}
    return {"version": 2, "ethernets": ethernets}


def link_files(spec: VMSpec) -> list[dict[str, Any]]:
    """Give files by which udev names the NICs as the network configuration does.

    cloud-init's own renaming lasts for one boot, and later ones have no seed by which to do it
    again. Its renderer for networkd then leaves configurations of interfaces that aren't there.
    Netplan and ifupdown's renderer write such files, or rules, of their own.

    Source: https://www.freedesktop.org/software/systemd/man/latest/systemd.link.html

    Returns:
        Entries of ``write_files``; none where the spec brings its own network configuration.
    """
    if spec.cloud_init is None or spec.cloud_init.network_config is not None:
        return []
    return [
        {
            "path": f"/etc/systemd/network/10-vmctl-{_name(index)}.link",
            # The type leaves out what takes the NIC's address over: bridges, bonds, VLANs.
            "content": f"[Match]\nMACAddress={nic.mac}\nType=ether\n\n"
            f"[Link]\nName={_name(index)}\n",
        }
        for index, nic in enumerate(spec.nics)
    ]


def _name(index: int) -> str:
    # Not eth0: where the kernel gave that name to another NIC first, renaming fails.
    return f"nic{index}"


def _ethernet(index: int, nic: NicSpec) -> dict[str, Any]:
    if nic.mac is None:
        raise UsageError(
            f"nics[{index}] has no MAC address yet; with_macs gives it one",
            hint="call with_macs first",
        )
    found: dict[str, Any] = {
        "match": {"macaddress": nic.mac},
        # Without it, cloud-init's renderers for networkd and ifupdown look for an interface that
        # is called like the key above, and configure none.
        "set-name": _name(index),
        "dhcp4": nic.wants_dhcp,
    }
    if nic.wants_dhcp:
        # A clone that kept its template's machine-id must not get its template's address.
        found["dhcp-identifier"] = "mac"
    if nic.address:
        found["addresses"] = list(nic.address)
    if nic.gateway:
        found["routes"] = [
            {"to": _DEFAULT_ROUTE[ipaddress.ip_address(gateway).version], "via": gateway}
            for gateway in nic.gateway
        ]
    if nic.nameservers:
        found["nameservers"] = {"addresses": list(nic.nameservers)}
    return found
