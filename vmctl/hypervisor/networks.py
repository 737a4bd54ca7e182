"""Networks that libvirt manages, as far as a guest's NIC needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import NotFoundError, UnsupportedError, VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code

__all__ = [
    "NetworkStatus",
    "ensure_active",
    "find",
    "is_active",
    "list_networks",
    "next_definition",
    "plugged_in",
    "stop_unused",
]


@dataclass(frozen=True, kw_only=True)
class NetworkStatus:
    """A network, and whether it runs."""

    name: str
    active: bool
    bridge: str


def is_active(connection: Connection, name: str) -> bool:
    """Return whether the network runs.

    Raises:
        NotFoundError: There is no such network.
    """
    with calling(f"ask for the network '{name}'"):
        return bool(find(connection, name).isActive())


def find(connection: Connection, name: str) -> Any:
    """Return libvirt's own handle of a network, for this layer only.

    Raises:
        NotFoundError: There is none of that name.
    """
    with calling(f"find the network '{name}'"):
        try:
            return connection.raw.networkLookupByName(name)
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_NO_SUPPORT):
                raise
            raise NotFoundError(
                f"there is no network '{name}' at {connection.uri}",
                hint=_others(connection, error),
            ) from error


def next_definition(raw: Any) -> str:
    """Return the XML by which a network starts next; what vmctl records of it is true there.

    Until then, libvirt's metadata of one that runs stays as it was when it started.
    """
    try:
        return str(raw.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE if raw.isPersistent() else 0))
    except libvirt.libvirtError as error:
        # libvirt's test driver has one definition only.
        if not is_code(error, libvirt.VIR_ERR_INVALID_ARG):
            raise
        return str(raw.XMLDesc(0))


def _others(connection: Connection, error: libvirt.libvirtError) -> str:
    """Say what a machine could join in the place of a network that isn't there."""
    user = "user-mode networking: `nics: [{type: user}]`"
    if not is_code(error, libvirt.VIR_ERR_NO_NETWORK):
        return f"this libvirt has no networks; use {user}"
    names = sorted(network.name() for network in connection.raw.listAllNetworks(0))
    return f"there is {', '.join(names)}; or use {user}" if names else f"there is none; use {user}"


def ensure_active(connection: Connection, name: str) -> None:
    """Start the network if it isn't running.

    Raises:
        NotFoundError: There is no such network.
        UnsupportedError: It can't be started here.
    """
    raw = find(connection, name)

    def refused(error: libvirt.libvirtError) -> VmctlError:
        return UnsupportedError(
            f"the network '{name}' is not active and can't be started",
            details=error.get_error_message() or "",
            hint="if something on the host has its addresses or its bridge already, one of the two "
            f"has to change; `vmctl network info {name}` shows them",
        )

    with calling(f"start the network '{name}'", on=refused):
        try:
            if not raw.isActive():
                raw.create()
        except libvirt.libvirtError:
            # Somebody else may have been quicker.
            if not raw.isActive():
                raise


def stop_unused(connection: Connection, name: str) -> None:
    """Stop the network unless something is plugged into it; one that is stopped, or gone, is so."""
    try:
        raw = find(connection, name)
    except NotFoundError:
        return
    with calling(f"stop the network '{name}'"):
        try:
            # Ports are of whatever libvirt runs there: machines, containers, somebody else's too.
            if raw.isActive() and not _ports(raw):
                raw.destroy()
        except libvirt.libvirtError:
            if raw.isActive():
                raise


def _ports(raw: Any) -> list[Any]:
    try:
        return list(raw.listAllPorts())
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
            return []
        raise


def plugged_in(connection: Connection, name: str) -> tuple[str, ...]:
    """Return who is plugged into a network, sorted: machines that run, containers, by name.

    Raises:
        NotFoundError: There is none of that name.
    """
    raw = find(connection, name)
    with calling(f"ask who is plugged into the network '{name}'"):
        if not raw.isActive():
            return ()
        owners = [etree.fromstring(port.XMLDesc(0)).find("owner") for port in _ports(raw)]
    names = {owner.findtext("name") or "" for owner in owners if owner is not None}
    return tuple(sorted(names))


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
