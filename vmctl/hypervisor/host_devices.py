"""The host's own network devices, as far as the client can learn of them."""

from __future__ import annotations

from pathlib import Path

import libvirt

from vmctl.errors import NotFoundError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code
from vmctl.spec.network import NetworkMode, NetworkSpec

__all__ = ["device_names", "refuse_missing_device", "refuse_missing_devices"]


def refuse_missing_devices(connection: Connection, spec: NetworkSpec) -> None:
    """Refuse a network on a bridge or a device that the host has not, where that can be known.

    Raises:
        NotFoundError: There is none of that name.
    """
    bridge = spec.bridge if spec.mode is NetworkMode.BRIDGE and not spec.openvswitch else None
    for kind, name in (("bridge", bridge), ("device", spec.device)):
        if name is not None:
            refuse_missing_device(connection, name, kind, f"the network '{spec.name}'")


def refuse_missing_device(connection: Connection, name: str, kind: str, whose: str) -> None:
    """Refuse a device that the host has not, where that can be known.

    Args:
        connection: The host.
        name: Its name.
        kind: What it is, ``bridge`` or ``device``.
        whose: What needs it.

    Raises:
        NotFoundError: There is none of that name.
    """
    names = device_names(connection)
    if names is not None and name not in names:
        there = ", ".join(sorted(names - {"lo"})) or "none"
        raise NotFoundError(
            f"the host has no {kind} '{name}' for {whose}",
            hint=f"make it on the host first; its devices are: {there}",
        )


def device_names(connection: Connection) -> set[str] | None:
    """Return the names of the host's network devices; None where they can't be known.

    Of this machine its kernel is asked, of a remote one libvirt, which needs a backend for that.
    """
    address = connection.address
    if address.is_local and not connection.uri.startswith("test:"):
        namespace = address.network_namespace
        # /proc/PID/ns/net names the namespace, and /proc/PID/net is what is seen in it.
        own = Path("/proc/self/net") if namespace is None else namespace.parents[1] / "net"
        lines = (own / "dev").read_text(encoding="utf-8").splitlines()[2:]
        return {line.partition(":")[0].strip() for line in lines}
    with calling("list the host's network devices"):
        try:
            return {device.name() for device in connection.raw.listAllInterfaces(0)} or None
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
                return None
            raise
