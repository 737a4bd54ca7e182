"""What a guest can do on its networks."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from vmctl.auditing.line import AuditLine, fails, holds, unknown
from vmctl.auditing.seen import Seen

__all__ = ["judge"]


# vmctl's own, by the beginnings of their names, and libvirt's.
_KEEPS_TO_ITSELF = ("vmctl-antispoofing-", "clean-traffic")
_FENCES = ("vmctl-fence-",)


def judge(seen: Seen) -> Iterator[AuditLine]:
    """Look at the NICs of a machine."""
    # In user mode QEMU itself makes the packets: nobody sees what a guest pretends to be.
    nics = [node for node in seen.root.findall("devices/interface") if node.get("type") != "user"]
    yield _spoofing(seen, nics)
    yield _ports(seen, nics)
    yield _tenant(seen, nics)


def _has_filter(seen: Seen, node: etree._Element, beginnings: tuple[str, ...]) -> bool:
    reference = node.find("filterref")
    name = "" if reference is None else reference.get("filter", "")
    return any(part.startswith(beginnings) for part in seen.filters.get(name, ()))


def _mac(node: etree._Element) -> str:
    mac = node.find("mac")
    return "a NIC" if mac is None else mac.get("address", "")


def _network(node: etree._Element) -> str:
    source = node.find("source")
    return "" if source is None else source.get("network", "")


def _spoofing(seen: Seen, nics: list[etree._Element]) -> AuditLine:
    free = [_mac(node) for node in nics if not _has_filter(seen, node, _KEEPS_TO_ITSELF)]
    if free:
        return fails(
            "anti-spoofing",
            f"{', '.join(free)} may pretend to be anybody on the network",
            spec="nics: [{antispoofing: true}]",
        )
    return holds("anti-spoofing", "each NIC sends by its own addresses only")


def _ports(seen: Seen, nics: list[etree._Element]) -> AuditLine:
    free = [_mac(node) for node in nics if not _is_apart(seen, node)]
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


def _tenant(seen: Seen, nics: list[etree._Element]) -> AuditLine:
    if not seen.tenant:
        found = "it is no tenant's: it reaches the services of its host"
        return fails("tenant", found, spec="tenant: NAME, and a network of that tenant's")
    strange = [
        f"{_mac(node)} is on {_network(node) or 'a bridge of the host'}"
        for node in nics
        if not _is_own(seen, _network(node))
    ]
    if strange:
        found = f"{', '.join(strange)}, which is not {seen.tenant}'s"
        return fails("tenant", found, spec=f"a network of {seen.tenant}'s")
    user = seen.has("devices/interface[@type='user']")
    free = [_mac(node) for node in nics if not _has_filter(seen, node, _FENCES)]
    if free or user:
        found = f"nothing keeps {', '.join(free) or 'its user-mode NIC'} from the host"
        return fails("tenant", found, spec="its NICs attached anew by `vmctl nic`")
    needs = "net.bridge.bridge-nf-call-iptables and -ip6tables to be 1"
    if "bridge-filters" in seen.facts.lacking:
        return fails("tenant", "its filters see nothing of what bridges carry", host=needs)
    if not seen.is_here:
        found = "it has filters; whether they see what bridges carry, only its host knows"
        return unknown("tenant", found, host=needs)
    return holds("tenant", f"{seen.tenant}: kept from its host and from other tenants")


def _is_own(seen: Seen, network: str) -> bool:
    owner = seen.networks.get(network)
    return owner is not None and (owner.shared or owner.tenant == seen.tenant)
