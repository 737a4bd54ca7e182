"""The seed's network configuration, version 2.

Source: https://cloudinit.readthedocs.io/en/latest/reference/network-config-format-v2.html
"""

from __future__ import annotations

import ipaddress
from typing import Any

from vmctl.errors import UsageError
from vmctl.spec import NicSpec, VMSpec

__all__ = ["network_config"]

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


def _ethernet(index: int, nic: NicSpec) -> dict[str, Any]:
    if nic.mac is None:
        raise UsageError(f"nics[{index}] has no MAC address yet; with_macs gives it one")
    found: dict[str, Any] = {
        "match": {"macaddress": nic.mac},
        # Without it, cloud-init's renderers for networkd and ifupdown look for an interface that
        # is called like the key above, and configure none.
        "set-name": f"eth{index}",
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
