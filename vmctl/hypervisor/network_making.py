"""Making networks: brought up first, and kept by libvirt once they run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import libvirt
from lxml import etree

from vmctl.errors import ConflictError, HypervisorError, NotFoundError, VmctlError
from vmctl.hypervisor.claims import Claim
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.networks import find
from vmctl.render.network_record import recorded_claim, recorded_spec, with_record

__all__ = ["HalfMade", "bring_up", "forget", "half_made", "keep", "name_is_taken", "stop"]


@dataclass(frozen=True, kw_only=True)
class HalfMade:
    """A network of vmctl's that libvirt does not keep yet.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        claim: Who is making it, or was; None where that isn't known.
    """

    name: str
    uuid: str
    claim: Claim | None


def half_made(connection: Connection) -> list[HalfMade]:
    """Return the networks that are being made, or whose making was cut off, sorted by name."""
    found = []
    flag = libvirt.VIR_CONNECT_LIST_NETWORKS_TRANSIENT
    with calling("list the networks"):
        try:
            networks = connection.raw.listAllNetworks(flag)
        except libvirt.libvirtError as error:
            # A libvirt without networks has none that could be half-made.
            if is_code(error, libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_NO_CONNECT):
                return []
            raise
        for raw in networks:
            try:
                root = etree.fromstring(raw.XMLDesc(0))
            except libvirt.libvirtError as error:
                if is_code(error, libvirt.VIR_ERR_NO_NETWORK):
                    continue
                raise
            data = recorded_claim(root)
            if recorded_spec(root) is not None:
                claim = None if data is None else Claim(**data)
                found.append(HalfMade(name=raw.name(), uuid=raw.UUIDString(), claim=claim))
    return sorted(found, key=lambda entry: entry.name)


def bring_up(connection: Connection, xml: str, *, name: str, uuid: str) -> None:
    """Make a network that runs and that libvirt doesn't keep yet.

    libvirt itself takes back what it can't start. So a client that is killed here leaves nothing,
    or a network that works until libvirtd ends.

    Args:
        connection: The host.
        xml: The network.
        name: Its name.
        uuid: Its UUID.

    Raises:
        ConflictError: There is one of that name.
        HypervisorError: libvirt can't start it; why is in ``details``.
    """

    def refused(error: libvirt.libvirtError) -> VmctlError | None:
        with suppress(VmctlError):
            if find(connection, name).UUIDString() != uuid:
                return name_is_taken(name)
        if is_code(error, libvirt.VIR_ERR_INTERNAL_ERROR):
            return HypervisorError(
                f"the host can't start the network '{name}'",
                code=libvirt.VIR_ERR_INTERNAL_ERROR,
                details=error.get_error_message() or "",
                hint="if something on the host has its addresses or its bridge already, choose "
                "others, or `auto`",
            )
        return None

    with calling(f"create the network '{name}'", on=refused):
        connection.raw.networkCreateXMLFlags(xml, libvirt.VIR_NETWORK_CREATE_VALIDATE)


def keep(connection: Connection, name: str, *, autostart: bool) -> None:
    """Let libvirt keep the definition of a running network, and start it with the host if wanted.

    What it has chosen for it, its bridge's name say, stays that way.
    """
    raw = find(connection, name)
    with calling(f"define the network '{name}'"):
        # From here on nobody is making it any more.
        kept = connection.raw.networkDefineXMLFlags(
            with_record(raw.XMLDesc(0), None), libvirt.VIR_NETWORK_DEFINE_VALIDATE
        )
        if autostart:
            kept.setAutostart(1)


def stop(connection: Connection, name: str) -> None:
    """Stop a network, whoever is on it; one that is off, or gone, is so already."""
    with suppress(NotFoundError), calling(f"stop the network '{name}'"):
        raw = find(connection, name)
        try:
            raw.destroy()
        except libvirt.libvirtError:
            if raw.isActive():
                raise


def forget(connection: Connection, name: str) -> None:
    """Stop a network and remove its definition; one that is gone is so already."""
    try:
        raw = find(connection, name)
        with calling(f"remove the network '{name}'"):
            if raw.isPersistent():
                # First, so that one who is killed here leaves nothing that starts with the host.
                raw.undefine()
    except NotFoundError:
        return
    stop(connection, name)


def name_is_taken(name: str) -> ConflictError:
    """Return the error for a name that is in use."""
    return ConflictError(
        f"there is a network '{name}' already",
        hint=f"choose another name, or see what it is: `vmctl network info {name}`",
    )
