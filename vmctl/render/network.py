"""Network XML (https://libvirt.org/formatnetwork.html)."""

from __future__ import annotations

from typing import Any

from lxml import etree

from vmctl.render.network_record import add_record
from vmctl.spec.limits import BandwidthSpec
from vmctl.spec.network import MacvtapMode, NetworkMode, NetworkSpec
from vmctl.spec.subnet import ChosenSubnet, SubnetSpec

__all__ = ["render_network"]


def render_network(
    spec: NetworkSpec, *, uuid: str | None = None, claim: dict[str, Any] | None = None
) -> str:
    """Return the XML of a network, with the spec in its metadata: it holds no secret.

    Args:
        spec: What is wanted, with its subnets chosen.
        uuid: Its UUID; libvirt makes one up when it is not given.
        claim: Who is making it, if somebody is.
    """
    root = etree.Element("network")
    etree.SubElement(root, "name").text = spec.name
    if uuid is not None:
        etree.SubElement(root, "uuid").text = uuid
    _add_record(root, spec, claim)
    _add_forward(root, spec)
    _add_bridge(root, spec)
    if spec.mode.is_virtual:
        _add_services(root, spec)
    if spec.vlan is not None:
        etree.SubElement(etree.SubElement(root, "vlan"), "tag", id=str(spec.vlan))
    if spec.openvswitch:
        etree.SubElement(root, "virtualport", type="openvswitch")
    if spec.isolate_guests:
        etree.SubElement(root, "port", isolated="yes")
    etree.indent(root)
    return etree.tostring(root, encoding="unicode") + "\n"


def _add_record(root: etree._Element, spec: NetworkSpec, claim: dict[str, Any] | None) -> None:
    metadata = etree.SubElement(root, "metadata")
    add_record(metadata, spec.model_dump(mode="json", exclude_unset=True), claim)


def _add_forward(root: etree._Element, spec: NetworkSpec) -> None:
    if spec.mode is NetworkMode.ISOLATED:
        return
    if spec.mode is NetworkMode.MACVTAP:
        mode = spec.macvtap_mode or MacvtapMode.BRIDGE
        forward = etree.SubElement(root, "forward", mode=mode.value)
        etree.SubElement(forward, "interface", dev=spec.device or "")
        return
    forward = etree.SubElement(root, "forward", mode=spec.mode.value)
    if spec.device is not None:
        forward.set("dev", spec.device)
    if spec.mode is NetworkMode.NAT and spec.ipv6 is not None:
        etree.SubElement(forward, "nat", ipv6="yes")


def _add_bridge(root: etree._Element, spec: NetworkSpec) -> None:
    if spec.mode is NetworkMode.MACVTAP:
        return
    bridge = etree.SubElement(root, "bridge")
    if spec.bridge is not None:
        bridge.set("name", spec.bridge)
    if spec.mode.is_virtual:
        bridge.set("stp", "on")
        bridge.set("delay", "0")


def _add_services(root: etree._Element, spec: NetworkSpec) -> None:
    """Add what libvirt does on a bridge of its own."""
    if spec.mtu is not None:
        etree.SubElement(root, "mtu", size=str(spec.mtu))
    if spec.domain is not None:
        # What the network doesn't know of its own domain, nobody else does.
        etree.SubElement(root, "domain", name=spec.domain, localOnly="yes")
    _add_dns(root, spec)
    if spec.bandwidth is not None:
        _add_bandwidth(root, spec.bandwidth)
    for subnet in (spec.ipv4, spec.ipv6):
        chosen = subnet.chosen if subnet is not None else None
        if subnet is not None and chosen is not None:
            _add_subnet(root, subnet, chosen)


def _add_dns(root: etree._Element, spec: NetworkSpec) -> None:
    if not spec.dns.enabled:
        etree.SubElement(root, "dns", enable="no")
        return
    if not (spec.dns.forwarders or spec.dns.hosts):
        return
    dns = etree.SubElement(root, "dns")
    for address in spec.dns.forwarders:
        etree.SubElement(dns, "forwarder", addr=address)
    for entry in spec.dns.hosts:
        host = etree.SubElement(dns, "host", ip=entry.address)
        for name in entry.names:
            etree.SubElement(host, "hostname").text = name


def _add_bandwidth(root: etree._Element, bandwidth: BandwidthSpec) -> None:
    node = etree.SubElement(root, "bandwidth")
    for direction, rate in (("inbound", bandwidth.inbound), ("outbound", bandwidth.outbound)):
        if rate is not None:
            given = {"average": rate.average, "peak": rate.peak, "burst": rate.burst}
            numbers = {name: str(value) for name, value in given.items() if value is not None}
            etree.SubElement(node, direction, numbers)


def _add_subnet(root: etree._Element, subnet: SubnetSpec, chosen: ChosenSubnet) -> None:
    node = etree.SubElement(
        root,
        "ip",
        family=f"ipv{chosen.network.version}",
        address=str(chosen.host),
        prefix=str(chosen.network.prefixlen),
    )
    if not chosen.serves_dhcp:
        return
    dhcp = etree.SubElement(node, "dhcp")
    if chosen.given_out is not None:
        start, end = chosen.given_out
        etree.SubElement(dhcp, "range", start=str(start), end=str(end))
    for entry in subnet.reservations:
        named = {"mac": entry.mac, "name": entry.name, "ip": entry.address}
        etree.SubElement(dhcp, "host", {key: value for key, value in named.items() if value})
