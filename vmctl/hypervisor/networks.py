"""Networks that libvirt manages, as far as a guest's NIC needs them."""

from __future__ import annotations

from dataclasses import dataclass

import libvirt

from vmctl.errors import NotFoundError, UnsupportedError, VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["NetworkStatus", "ensure_active", "leases", "list_networks"]


@dataclass(frozen=True, kw_only=True)
class NetworkStatus:
    """A network, and whether it runs."""

    name: str
    active: bool
    bridge: str


def ensure_active(connection: Connection, name: str) -> bool:
    """Start the network if it isn't running; returns whether it had to be started.

    Raises:
        NotFoundError: There is no such network.
        UnsupportedError: It can't be started here.
    """
    with calling(f"find the network '{name}'"):
        try:
            raw = connection.raw.networkLookupByName(name)
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_NO_SUPPORT):
                raise
            raise NotFoundError(
                f"there is no network '{name}' at {connection.uri}",
                hint="name one that `virsh net-list --all` shows, or use user-mode networking: "
                "`nics: [{type: user}]`",
            ) from error
        if raw.isActive():
            return False

    def refused(error: libvirt.libvirtError) -> VmctlError | None:
        # Somebody else was quicker.
        if raw.isActive():
            return None
        return UnsupportedError(
            f"the network '{name}' is not active and can't be started",
            details=error.get_error_message() or "",
            hint=f"start it on the host: virsh net-start {name}",
        )

    with calling(f"start the network '{name}'", on=refused):
        try:
            raw.create()
        except libvirt.libvirtError:
            if raw.isActive():
                return False
            raise
    return True


def leases(connection: Connection, name: str, mac: str) -> list[tuple[str, int]]:
    """Return (address, prefix length) of the DHCP leases of one MAC."""
    with calling(f"ask the network '{name}' for its leases"):
        raw = connection.raw.networkLookupByName(name)
        return [
            (lease["ipaddr"], lease["prefix"])
            for lease in raw.DHCPLeases(mac, 0)
            if (lease.get("mac") or "").lower() == mac.lower()
        ]


def list_networks(connection: Connection) -> list[NetworkStatus]:
    """Return every network, sorted by name."""
    found = []
    with calling("list the networks"):
        for raw in connection.raw.listAllNetworks():
            active = bool(raw.isActive())
            # bridgeName() raises for a network without a bridge (macvtap, hostdev).
            try:
                bridge = raw.bridgeName()
            except libvirt.libvirtError:
                bridge = ""
            found.append(NetworkStatus(name=raw.name(), active=active, bridge=bridge))
    return sorted(found, key=lambda status: status.name)
