"""What a machine is known by on a network."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A list of machines needs their MAC addresses, and no specs.
    from vmctl.spec import VMSpec

__all__ = ["mac_address", "machine_id_of", "with_macs"]

_QEMU_PREFIX = "52:54:00"


def mac_address(uuid: str, index: int) -> str:
    """Derive the MAC address of a machine's NIC from its UUID.

    Args:
        uuid: The machine's UUID.
        index: The NIC's index in the spec.
    """
    digest = hashlib.sha256(f"vmctl:{uuid.lower()}:{index}".encode()).hexdigest()
    return ":".join((_QEMU_PREFIX, digest[0:2], digest[2:4], digest[4:6]))


def _mac_of_address(network: str, address: str, attempt: int) -> str:
    """Derive the MAC address of a NIC that is to have a certain address of its network.

    A DHCP server gives an address to no other MAC address until its lease is over, be the machine
    that had it gone or not. So whoever has it next is the same NIC to it.
    """
    return mac_address(f"{network}/{address}", attempt)


def machine_id_of(uuid: str) -> str:
    """Return the machine-id of a guest: its machine's UUID, as systemd itself does it.

    Source: https://www.freedesktop.org/software/systemd/man/latest/systemd-machine-id-setup.html
    """
    return uuid.replace("-", "").lower()


def with_macs(spec: VMSpec, uuid: str) -> VMSpec:
    """Give the resolved spec with a MAC address on every NIC; those that are given stay."""
    resolved = spec.resolved()
    nics = []
    taken = {nic.mac for nic in resolved.nics if nic.mac is not None}
    for index, nic in enumerate(resolved.nics):
        mac, attempt = nic.mac, index
        while mac is None:
            derived = mac_address(uuid, attempt)
            if nic.reserved:
                derived = _mac_of_address(nic.network or "", nic.reserved[0], attempt - index)
            mac = derived if derived not in taken else None
            attempt += len(resolved.nics)
        taken.add(mac)
        nics.append(nic.model_copy(update={"mac": mac}))
    return resolved.model_copy(update={"nics": tuple(nics)})
