"""Ports of the hypervisor that lead into a guest with user-mode networking.

libvirt has no word for them with QEMU's own user-mode network (slirp), so they are added to the
running QEMU through its monitor (``hostfwd_add``). They last as long as that QEMU. The other
backend, passt, takes ports only from the definition: one can't be opened when it is first needed,
and a free one can't be known beforehand on a remote host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lxml import etree

from vmctl.errors import ConflictError, HypervisorError, NotFoundError
from vmctl.hypervisor.domains import Domain

__all__ = [
    "Forward",
    "add_forward",
    "forward_to",
    "list_forwards",
    "remove_forward",
    "user_netdevs",
]

_LOOPBACK = "127.0.0.1"
# `info usernet`: "  TCP[HOST_FORWARD]  13       127.0.0.1  2222       10.0.2.15    22     0     0"
_LINE = re.compile(r"^\s+(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)\s")
_SECTION = re.compile(r"\((host\w+)\):")


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A port on the hypervisor, and the guest's port behind it."""

    netdev: str
    protocol: str
    host_address: str
    host_port: int
    guest_port: int


def user_netdevs(domain: Domain) -> dict[str, str]:
    """Return MAC to QEMU's name of the backend, for the user-mode NICs of a running domain."""
    root = etree.fromstring(domain.xml())
    found = {}
    for nic in root.findall("devices/interface[@type='user']"):
        mac, alias = nic.find("mac"), nic.find("alias")
        if mac is not None and alias is not None:
            # libvirt calls the backend of the NIC "net0" "hostnet0".
            found[(mac.get("address") or "").lower()] = f"host{alias.get('name')}"
    return found


def list_forwards(domain: Domain) -> list[Forward]:
    """Return the forwards of a running domain."""
    found, netdev = [], ""
    for line in domain.monitor("info usernet").splitlines():
        if section := _SECTION.search(line):
            netdev = section[1]
        elif match := _LINE.match(line):
            found.append(
                Forward(
                    netdev=netdev,
                    protocol=match[1].lower(),
                    host_address=match[2],
                    host_port=int(match[3]),
                    guest_port=int(match[5]),
                )
            )
    return found


def add_forward(
    domain: Domain,
    netdev: str,
    *,
    guest_port: int,
    host_port: int = 0,
    protocol: str = "tcp",
    host_address: str = _LOOPBACK,
) -> Forward:
    """Make a port of the hypervisor lead into the guest.

    Args:
        domain: A running domain.
        netdev: QEMU's name of the backend, from `user_netdevs`.
        guest_port: The guest's port.
        host_port: The hypervisor's; 0 lets its kernel choose a free one.
        protocol: ``tcp`` or ``udp``.
        host_address: The address to listen on.

    Raises:
        ConflictError: The port is in use.
    """
    wanted = f"{protocol}:{host_address}:{host_port}-:{guest_port}"
    before = list_forwards(domain)
    said = domain.monitor(f"hostfwd_add {netdev} {wanted}").strip()
    for forward in list_forwards(domain):
        if (
            forward not in before
            and (forward.netdev, forward.protocol) == (netdev, protocol)
            and forward.guest_port == guest_port
            and host_port in {0, forward.host_port}
        ):
            return forward
    if host_port:
        raise ConflictError(
            f"can't forward the port {host_port} of {host_address} to '{domain.name}'",
            details=said,
            hint="choose a port that nothing else listens on",
        )
    raise HypervisorError(
        f"QEMU refused a forward to '{domain.name}'",
        details=said,
        hint="QEMU's log on the host says more: /var/log/libvirt/qemu",
    )


def remove_forward(
    domain: Domain, netdev: str, *, protocol: str, host_address: str, host_port: int
) -> None:
    """Close a port of the hypervisor; what is connected through it stays so.

    Args:
        domain: A running domain.
        netdev: QEMU's name of the backend, from `user_netdevs`.
        protocol: ``tcp`` or ``udp``.
        host_address: The address that is listened on.
        host_port: The hypervisor's port.

    Raises:
        HypervisorError: QEMU keeps it.
    """
    said = domain.monitor(f"hostfwd_remove {netdev} {protocol}:{host_address}:{host_port}").strip()
    for forward in list_forwards(domain):
        if (forward.netdev, forward.protocol, forward.host_address, forward.host_port) == (
            netdev,
            protocol,
            host_address,
            host_port,
        ):
            raise HypervisorError(
                f"QEMU keeps the port {host_port} of {host_address} open for '{domain.name}'",
                details=said,
                hint="it goes when the machine is stopped",
            )


def forward_to(domain: Domain, mac: str, *, guest_port: int, make: bool) -> tuple[str, int] | None:
    """Return the hypervisor's (address, port) that leads to the guest's port.

    Args:
        domain: A running domain.
        mac: Its user-mode NIC.
        guest_port: The guest's port.
        make: Whether to make one where there is none; else None is returned.

    Raises:
        NotFoundError: The domain has no user-mode NIC of that MAC.
    """
    netdev = user_netdevs(domain).get(mac.lower())
    if netdev is None:
        raise NotFoundError(
            f"'{domain.name}' has no user-mode NIC {mac}",
            hint="`vmctl info` shows the NICs that it has",
        )
    for forward in list_forwards(domain):
        if (forward.netdev, forward.protocol, forward.guest_port) == (netdev, "tcp", guest_port):
            everywhere = forward.host_address == "0.0.0.0"  # noqa: S104
            return _LOOPBACK if everywhere else forward.host_address, forward.host_port
    if not make:
        return None
    made = add_forward(domain, netdev, guest_port=guest_port)
    return made.host_address, made.host_port
