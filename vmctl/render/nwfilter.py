"""Packet filters of NICs (https://libvirt.org/formatnwfilter.html).

What a filter says is a document of its own at the host; a NIC refers to it, with its addresses.
Documents that vmctl brings are named by their content, so that two versions of it each have theirs.
"""

from __future__ import annotations

import hashlib
import ipaddress
import uuid as uuid_module
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

from vmctl.errors import UsageError
from vmctl.render.fence import fence_values
from vmctl.render.filter_names import PREFIX, FilterDocument, eui64, group_filter_name
from vmctl.render.templates import Templates
from vmctl.spec import NicSpec, VMSpec

__all__ = [
    "NicFilter",
    "document",
    "named_by_content",
    "nic_documents",
    "nic_filter",
    "nic_filters",
    "refuse_left_out",
    "write_filter",
]

# A filter is known to libvirt by both; the same name has the same UUID wherever it is made.
_SPACE = uuid_module.UUID("2f0e7f0a-6d3c-4a55-9f7b-0f7a5f5f2d61")


@dataclass(frozen=True)
class NicFilter:
    """What a NIC says of its filter: which, and with which parameters."""

    name: str
    parameters: tuple[tuple[str, str], ...]


def document(
    name: str, template: str, values: Mapping[str, Any], templates: Templates | None = None
) -> FilterDocument:
    """Render a filter; its UUID follows from its name."""
    uuid = str(uuid_module.uuid5(_SPACE, name))
    chain = templates or Templates.default()
    known = {"name": name, "uuid": uuid, **values}
    return FilterDocument(name, chain.xml(f"filters/{template}.xml.j2", known))


def named_by_content(
    template: str, values: Mapping[str, Any], templates: Templates | None = None
) -> FilterDocument:
    """Render a filter whose name has a digest of what it says."""
    content = document(PREFIX, template, values, templates).xml
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return document(f"{PREFIX}{template}-{digest}", template, values, templates)


def nic_documents(nic: NicSpec, templates: Templates | None = None) -> tuple[FilterDocument, ...]:
    """Return the filters that a resolved NIC needs, the one that it refers to last.

    Those of its security groups are not among them: they are there already.
    """
    parts = []
    if nic.antispoofing:
        parts.append(named_by_content("antispoofing", {"ipv4": _has_ipv4(nic)}, templates))
    if nic.fence is not None:
        # A security group's own filter lets the guest answer whom the group lets in.
        values = {"alone": not nic.security_groups, **fence_values(nic.fence)}
        parts.append(named_by_content("fence", values, templates))
    if nic.security_groups:
        parts.append(named_by_content("stateful", {}, templates))
        groups = [group_filter_name(group) for group in sorted(nic.security_groups)]
    else:
        groups = []
    if len(parts) > 1:
        names = [*(part.name for part in parts), *groups]
        parts.append(named_by_content("nic", {"parts": names}, templates))
    return tuple(parts)


def nic_filter(
    nic: NicSpec, known: Iterable[str] = (), templates: Templates | None = None
) -> NicFilter | None:
    """Return what a resolved NIC with a MAC address says of its filter; None for no filter.

    Its addresses are those of the spec, those that are known otherwise, and the one that IPv6 makes
    of its MAC address. IPv4 addresses that nobody knows are learned from the answers of DHCP
    servers.

    Args:
        nic: The NIC.
        known: Addresses that it has besides those in its spec.
        templates: Templates to use instead of the default ones.
    """
    documents = nic_documents(nic, templates)
    if not documents:
        return None
    static = (text.partition("/")[0] for text in nic.address)
    addresses = [ipaddress.ip_address(text) for text in (*static, *known)]
    ipv4 = dict.fromkeys(str(address) for address in addresses if address.version == 4)
    ipv6 = dict.fromkeys(str(address) for address in addresses if address.version == 6)
    parameters = [("IP", address) for address in ipv4]
    if not parameters and _has_ipv4(nic):
        parameters = [("CTRL_IP_LEARNING", "dhcp")]
    own = dict.fromkeys((eui64(nic.mac or ""), *ipv6))
    parameters += [("IPV6", address) for address in own]
    return NicFilter(documents[-1].name, tuple(parameters))


def _has_ipv4(nic: NicSpec) -> bool:
    return nic.wants_dhcp or any(":" not in text for text in nic.address)


def nic_filters(
    spec: VMSpec,
    known: Mapping[str, Sequence[str]] | None = None,
    templates: Templates | None = None,
) -> dict[str, NicFilter]:
    """Return what each NIC of a resolved spec says of its filter, by its MAC address."""
    found = {}
    for nic in spec.nics:
        said = nic_filter(nic, (known or {}).get(nic.mac or "", ()), templates)
        if said is not None:
            found[nic.mac or ""] = said
    return found


def write_filter(nic: etree._Element, said: NicFilter | None) -> None:
    """Write what a NIC says of its filter into libvirt's definition of it; None takes it out."""
    for old in nic.findall("filterref"):
        nic.remove(old)
    if said is not None:
        new = etree.SubElement(nic, "filterref", filter=said.name)
        for name, value in said.parameters:
            etree.SubElement(new, "parameter", name=name, value=value)


def refuse_left_out(xml: str, filters: Iterable[NicFilter]) -> None:
    """Refuse a document in which a NIC has not the filter that it must have.

    Raises:
        UsageError: Somebody's own template for NICs is older than filters are.
    """
    if any(f"<filterref filter='{said.name}'" not in xml for said in filters):
        raise UsageError(
            "the template devices/nic.xml.j2 leaves a NIC's packet filter out",
            hint="bring your own template into line with vmctl's, or take it away",
        )
