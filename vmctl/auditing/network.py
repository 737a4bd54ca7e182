"""What a guest can do on its networks."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from vmctl.auditing.line import AuditLine, fails, holds
from vmctl.auditing.seen import Seen

__all__ = ["judge"]


def judge(seen: Seen) -> Iterator[AuditLine]:
    """Look at the NICs of a machine."""
    nics = seen.root.findall("devices/interface")
    yield _spoofing(nics)
    yield _ports(seen, nics)


def _mac(node: etree._Element) -> str:
    mac = node.find("mac")
    return "a NIC" if mac is None else mac.get("address", "")


def _network(node: etree._Element) -> str:
    source = node.find("source")
    return "" if source is None else source.get("network", "")


def _spoofing(nics: list[etree._Element]) -> AuditLine:
    # In user mode QEMU itself makes the packets: nobody sees what a guest pretends to be.
    free = [
        _mac(node) for node in nics if node.get("type") != "user" and node.find("filterref") is None
    ]
    if free:
        return fails(
            "anti-spoofing",
            f"{', '.join(free)} may pretend to be anybody on the network",
            spec="nics: [{antispoofing: true}]",
        )
    return holds("anti-spoofing", "each NIC sends by its own addresses only")


def _ports(seen: Seen, nics: list[etree._Element]) -> AuditLine:
    free = [_mac(node) for node in nics if node.get("type") != "user" and not _is_apart(seen, node)]
    if free:
        return fails(
            "isolated-ports",
            f"{', '.join(free)} reaches the other guests of its network",
            spec="nics: [{isolated: true}], or a network with `isolate_guests: true`",
        )
    return holds("isolated-ports", "it reaches no other guest of its networks")


def _is_apart(seen: Seen, node: etree._Element) -> bool:
    port = node.find("port")
    if port is not None and port.get("isolated") == "yes":
        return True
    kind = seen.networks.get(_network(node))
    return kind is not None and kind.isolates_guests
