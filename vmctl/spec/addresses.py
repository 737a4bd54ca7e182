"""Addresses of guests and networks, and the host's network devices."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

__all__ = [
    "BridgeName",
    "Cidr",
    "DeviceName",
    "InterfaceAddress",
    "IpAddress",
    "MacAddress",
    "Reserve",
    "SubnetOrAuto",
]

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")


def _mac(text: str) -> str:
    mac = text.lower().replace("-", ":")
    if _MAC.fullmatch(mac) is None:
        raise ValueError(f"{text[:40]!r} is not a MAC address; write it like 52:54:00:12:34:56")
    if int(mac[:2], 16) & 1:
        raise ValueError(
            f"{mac} is a multicast address; a NIC needs an even first byte, such as 52"
        )
    if mac == "00:00:00:00:00:00":
        raise ValueError("a MAC address of nothing but zeros belongs to nobody")
    return mac


def _interface(text: str) -> str:
    if "/" not in text:
        raise ValueError(f"{text[:60]!r} has no prefix length; write {text[:60]}/24, for example")
    try:
        return str(ipaddress.ip_interface(text))
    except ValueError:
        raise ValueError(
            f"{text[:60]!r} is not an IP address with its prefix length, such as 192.0.2.10/24"
        ) from None


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not an IP address") from None


def _cidr(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a subnet such as 192.0.2.0/24") from None


def _subnet(text: str) -> str:
    if text == "auto":
        return text
    try:
        whole = ipaddress.ip_interface(text).network
    except ValueError:
        whole = None
    if whole is None or "/" not in text:
        raise ValueError(
            f"{text[:60]!r} is not a subnet with its prefix length, such as 192.0.2.0/24"
        )
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"{text[:60]!r} is an address in {whole}; write that") from None


def _reserve(value: Any) -> Any:
    if isinstance(value, str):
        value = (value,)
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise ValueError("true, false, an IP address, or a list of them")
    if not value:
        raise ValueError("is an empty list; write false")
    return tuple(_ip(entry) for entry in value)


def _bridge(name: str) -> str:
    return _device(name, "a bridge's name")


def _device(name: str, what: str = "a network device's name") -> str:
    if _DEVICE.fullmatch(name) is None or name in {".", ".."}:
        raise ValueError(f"{name[:40]!r} is not {what} (at most 15 letters, digits, '-_.')")
    return name


MacAddress = Annotated[str, AfterValidator(_mac)]
"""A NIC's own address, in lower case with colons."""

InterfaceAddress = Annotated[str, AfterValidator(_interface)]
"""An IP address with its prefix length."""

IpAddress = Annotated[str, AfterValidator(_ip)]
"""An IP address."""

Reserve = Annotated[
    bool | tuple[str, ...],
    # All of it here: of a union, pydantic would tell what is wrong by each of its members.
    BeforeValidator(_reserve, json_schema_input_type=bool | str | list[str]),
]
"""Whether an address is reserved, or which: one, or a list."""
Cidr = Annotated[str, AfterValidator(_cidr)]
"""An IPv4 or IPv6 subnet with its prefix length."""

SubnetOrAuto = Annotated[str, AfterValidator(_subnet)]
"""An IP network with its prefix length, or ``auto``."""

BridgeName = Annotated[str, AfterValidator(_bridge)]
"""The name of a bridge of the host."""

DeviceName = Annotated[str, AfterValidator(_device)]
"""The name of a network device of the host."""
