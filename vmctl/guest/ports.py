"""Ports of the hypervisor that lead into a guest, as its recorded spec forwards them.

On a user-mode NIC they are QEMU's own (`hypervisor.forwards`); on a network's, somebody passes on
what comes (`port_relays`). Both are gone when QEMU is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from vmctl.guest import port_relays
from vmctl.hypervisor import forwards
from vmctl.hypervisor.domains import Domain

__all__ = ["Port", "close", "is_open", "open_all", "open_one", "ports_of"]


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port that a recorded spec forwards.

    Attributes:
        mac: The NIC, in lower case.
        protocol: ``tcp`` or ``udp``.
        address: The host's address that is listened on.
        host_port: The port there.
        guest_port: The guest's port.
        fixed: The IPv4 addresses that the spec gives the NIC.
    """

    mac: str
    protocol: str
    address: str
    host_port: int
    guest_port: int
    fixed: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> tuple[str, str, int]:
        """What only one can have at a time."""
        return self.protocol, self.address, self.host_port

    def as_forward(self) -> dict[str, Any]:
        """Return it as a spec says it."""
        return {
            "host": self.host_port,
            "guest": self.guest_port,
            "protocol": self.protocol,
            "address": self.address,
        }


def ports_of(spec: dict[str, Any]) -> list[Port]:
    """Return the ports that a recorded spec forwards, in its order."""
    return [
        Port(
            mac=nic["mac"].lower(),
            protocol=forward.get("protocol", "tcp"),
            address=forward.get("address", "127.0.0.1"),
            host_port=forward["host"],
            guest_port=forward["guest"],
            fixed=tuple(_fixed(nic)),
        )
        for nic in spec.get("nics") or ()
        for forward in nic.get("forwards") or ()
    ]


def _fixed(nic: dict[str, Any]) -> Iterator[str]:
    given = nic.get("address") or []
    for text in [given] if isinstance(given, str) else given:
        if ":" not in text:
            yield text.partition("/")[0]


def open_all(domain: Domain, spec: dict[str, Any]) -> None:
    """Open the ports that a recorded spec forwards, as far as they are not open.

    Raises:
        ConflictError: One is in use.
        UnsupportedError: The host can pass nothing on.
    """
    for port in ports_of(spec):
        open_one(domain, port)


def open_one(domain: Domain, port: Port) -> None:
    """Open a port of a running machine; one that is open is so.

    A NIC that the running machine has not got, has none.

    Raises:
        ConflictError: It is in use.
        UnsupportedError: The host can pass nothing on.
    """
    guest = _guest(domain, port)
    if guest is not None:
        port_relays.open_port(domain, guest, port.as_forward())
        return
    netdev = forwards.user_netdevs(domain).get(port.mac)
    if netdev is not None and not _is_open_in_qemu(domain, netdev, port):
        forwards.add_forward(
            domain,
            netdev,
            guest_port=port.guest_port,
            host_port=port.host_port,
            protocol=port.protocol,
            host_address=port.address,
        )


def close(domain: Domain, port: Port) -> None:
    """Close a port of a running machine; one that is closed is so.

    Raises:
        UnsupportedError: The host can't be asked to.
    """
    netdev = forwards.user_netdevs(domain).get(port.mac)
    if netdev is None:
        port_relays.close_port(domain, port.as_forward())
    elif _is_open_in_qemu(domain, netdev, port):
        forwards.remove_forward(
            domain,
            netdev,
            protocol=port.protocol,
            host_address=port.address,
            host_port=port.host_port,
        )


def is_open(domain: Domain, found: list[Port]) -> dict[Port, bool]:
    """Return which ports of a machine are open."""
    if not found or not domain.is_active():
        return dict.fromkeys(found, False)
    netdevs = forwards.user_netdevs(domain)
    relayed = (
        port_relays.list_ports(domain) if any(port.mac not in netdevs for port in found) else set()
    )
    return {
        port: _is_open_in_qemu(domain, netdevs[port.mac], port)
        if port.mac in netdevs
        else (*port.key, port.guest_port) in relayed
        for port in found
    }


def _is_open_in_qemu(domain: Domain, netdev: str, port: Port) -> bool:
    return any(
        (entry.netdev, entry.protocol, entry.host_address, entry.host_port, entry.guest_port)
        == (netdev, *port.key, port.guest_port)
        for entry in forwards.list_forwards(domain)
    )


def _guest(domain: Domain, port: Port) -> port_relays.Guest | None:
    """Return where a port leads on a network; None for a NIC that is on none."""
    for nic in etree.fromstring(domain.xml()).iterfind("devices/interface[@type='network']"):
        mac, source, target = (nic.find(tag) for tag in ("mac", "source", "target"))
        if mac is None or source is None or target is None:
            continue
        if (mac.get("address") or "").lower() == port.mac:
            return port_relays.Guest(
                mac=port.mac,
                network=source.get("network") or "",
                device=target.get("dev") or "",
                fixed=port.fixed,
            )
    return None
