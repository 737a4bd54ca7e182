"""Whose a network is, and how it keeps its guests apart."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, TypeAlias

from lxml import etree

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.networks import find, next_definition
from vmctl.render.network_record import recorded_spec

__all__ = ["NetworkOwner", "owner_of", "read_owner"]

Interface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, kw_only=True)
class NetworkOwner:
    """A network, as far as it keeps tenants apart.

    Attributes:
        made_by_vmctl: Whether vmctl made it.
        tenant: Whose it is; empty for nobody's.
        shared: Whether machines of any tenant may join it.
        isolates_guests: Whether its guests can't reach each other.
        gateways: The host's addresses on it, each with its subnet's prefix length.
        reach: Private subnets that tenants' guests reach from it.
        keep_from: Subnets that they do not reach.
        mac: The MAC address of its bridge; empty where libvirt has none of it.
        closed: Whether nothing is to be reached beyond it.
    """

    made_by_vmctl: bool
    tenant: str
    shared: bool
    isolates_guests: bool
    gateways: tuple[Interface, ...]
    reach: tuple[str, ...] = ()
    keep_from: tuple[str, ...] = ()
    mac: str = ""
    closed: bool = False


def owner_of(connection: Connection, name: str) -> NetworkOwner:
    """Return whose a network is.

    Raises:
        NotFoundError: There is none of that name.
    """
    raw = find(connection, name)
    with calling(f"ask for the network '{name}'"):
        return read_owner(etree.fromstring(raw.XMLDesc(0)), next_definition(raw))


def read_owner(root: etree._Element, following: str) -> NetworkOwner:
    """Return what a network's XML says of it, as it runs, and as it starts next."""
    spec = recorded_spec(etree.fromstring(following))
    port, mac = root.find("port"), root.find("mac")
    return NetworkOwner(
        made_by_vmctl=spec is not None,
        tenant=str((spec or {}).get("tenant") or ""),
        shared=bool((spec or {}).get("shared")),
        isolates_guests=port is not None and port.get("isolated") == "yes",
        reach=_texts(spec, "reach"),
        keep_from=_texts(spec, "keep_from"),
        mac="" if mac is None else mac.get("address", ""),
        closed=root.find("forward") is None,
        gateways=tuple(_gateway(node) for node in root.iterfind("ip") if node.get("address")),
    )


def _texts(spec: dict[str, Any] | None, name: str) -> tuple[str, ...]:
    value = (spec or {}).get(name) or ()
    return (value,) if isinstance(value, str) else tuple(value)


def _gateway(node: etree._Element) -> Interface:
    whole = "128" if node.get("family") == "ipv6" else "32"
    prefix = node.get("prefix") or node.get("netmask") or whole
    return ipaddress.ip_interface(f"{node.get('address')}/{prefix}")
