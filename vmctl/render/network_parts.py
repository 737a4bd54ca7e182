"""What a network's XML says, part by part, in the words of its spec.

What is rendered and what libvirt has are read with the same eyes, so that what differs is known,
whoever wrote it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from lxml import etree

__all__ = ["family_of", "parts_of", "served_entry"]


def parts_of(xml: str) -> dict[str, str]:
    """Return path to value of all that a spec may say of a network.

    Entries of lists are named: ``dns.hosts.192.0.2.7``, and a reservation by its guest's MAC
    address, or, of IPv6, its name. What is not there has no path.
    """
    root = etree.fromstring(xml)
    return {path: value for path, value in _parts(root) if value}


def served_entry(xml: str, path: str) -> etree._Element | None:
    """Return the element of a reservation, a range or a DNS host; None if it is not there."""
    root = etree.fromstring(xml)
    family, _, rest = path.partition(".")
    if family == "dns":
        for node in root.iterfind("dns/host"):
            if f"hosts.{node.get('ip')}" == rest:
                return node
        return None
    for subnet in root.iterfind("ip"):
        if family_of(subnet) != family:
            continue
        if rest == "range":
            return subnet.find("dhcp/range")
        for node in subnet.iterfind("dhcp/host"):
            if f"reservations.{_guest(node)}" == rest:
                return node
    return None


def _parts(root: etree._Element) -> Iterator[tuple[str, str]]:
    yield from _of_the_host(root)
    for path, tag, attribute in (("mtu", "mtu", "size"), ("domain", "domain", "name")):
        yield path, _get(root, tag, attribute)
    yield "vlan", _get(root, "vlan/tag", "id")
    yield "openvswitch", _truth(_get(root, "virtualport", "type") == "openvswitch")
    yield "isolate_guests", _truth(_get(root, "port", "isolated") == "yes")
    for way in root.iterfind("bandwidth/*"):
        rates = sorted((str(name), str(value)) for name, value in way.attrib.items())
        yield f"bandwidth.{way.tag}", ", ".join(f"{name} {value}" for name, value in rates)
    yield "dns.enabled", "false" if _get(root, "dns", "enable") == "no" else ""
    forwarders = [node.get("addr") or "" for node in root.iterfind("dns/forwarder")]
    yield "dns.forwarders", ", ".join(forwarders)
    for host in root.iterfind("dns/host"):
        names = [node.text or "" for node in host.iterfind("hostname")]
        yield f"dns.hosts.{host.get('ip')}", ", ".join(names)
    for subnet in root.iterfind("ip"):
        yield from _of_subnet(subnet)


def _of_the_host(root: etree._Element) -> Iterator[tuple[str, str]]:
    forward, bridge = root.find("forward"), root.find("bridge")
    mode = "isolated" if forward is None else forward.get("mode", "nat")
    device = "" if forward is None else forward.get("dev", "")
    if forward is not None and bridge is None and forward.find("interface") is not None:
        yield "macvtap_mode", mode
        mode, device = "macvtap", _get(forward, "interface", "dev")
    yield "mode", mode
    yield "device", device
    yield "bridge", "" if bridge is None else bridge.get("name", "")


def _of_subnet(node: etree._Element) -> Iterator[tuple[str, str]]:
    family = family_of(node)
    length = node.get("prefix") or node.get("netmask")
    if node.get("address") and length:
        own = ipaddress.ip_interface(f"{node.get('address')}/{length}")
        yield f"{family}.subnet", str(own.network)
        yield f"{family}.gateway", str(own.ip)
    dhcp = node.find("dhcp")
    if dhcp is None:
        return
    yield f"{family}.dhcp", "true"
    spans = [f"{entry.get('start')}-{entry.get('end')}" for entry in dhcp.iterfind("range")]
    yield f"{family}.range", ", ".join(spans)
    for host in dhcp.iterfind("host"):
        told = [host.get("ip") or "", host.get("name") or "" if host.get("mac") else ""]
        yield f"{family}.reservations.{_guest(host)}", " ".join(filter(None, told))


def family_of(node: etree._Element) -> str:
    """Return ``ipv4`` or ``ipv6``: what a network's ``<ip>`` is of."""
    return node.get("family") or ("ipv6" if ":" in (node.get("address") or "") else "ipv4")


def _guest(host: etree._Element) -> str:
    return (host.get("mac") or "").lower() or host.get("name") or host.get("ip") or ""


def _get(root: etree._Element, path: str, attribute: str) -> str:
    node = root.find(path)
    return "" if node is None else node.get(attribute) or ""


def _truth(value: bool) -> str:
    return "true" if value else ""
