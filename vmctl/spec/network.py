"""Networks that guests join, by libvirt's terms (https://libvirt.org/formatnetwork.html)."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from vmctl.errors import SpecProblem
from vmctl.spec.addresses import BridgeName, Cidr, DeviceName, IpAddress
from vmctl.spec.base import SpecModel
from vmctl.spec.document import SpecDocument
from vmctl.spec.limits import BandwidthSpec
from vmctl.spec.names import HostName, TenantName
from vmctl.spec.subnet import SubnetSpec
from vmctl.spec.text import TextOrList

__all__ = ["DnsHost", "DnsSpec", "MacvtapMode", "NetworkMode", "NetworkName", "NetworkSpec"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# The least that IPv6 needs of a link (RFC 8200, 5).
_IPV6_MTU = 1280


class NetworkMode(StrEnum):
    """What a network's guests reach beyond each other."""

    NAT = "nat"
    """All that the host reaches, by the host's own address; nobody reaches them."""
    ROUTE = "route"
    """All that the host reaches, by their own addresses, which others need a route to."""
    OPEN = "open"
    """As `route`, and libvirt leaves the host's firewall alone."""
    ISOLATED = "isolated"
    """Each other, and the host."""
    BRIDGE = "bridge"
    """What the host's bridge reaches, as if they were plugged into it."""
    MACVTAP = "macvtap"
    """What a device of the host reaches, without the host itself."""

    @property
    def is_virtual(self) -> bool:
        """Whether libvirt makes its bridge, and serves addresses and names on it."""
        return self not in {NetworkMode.BRIDGE, NetworkMode.MACVTAP}


class MacvtapMode(StrEnum):
    """How guests on one device of the host see each other."""

    BRIDGE = "bridge"
    VEPA = "vepa"
    PRIVATE = "private"
    PASSTHROUGH = "passthrough"


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None or ".." in name:
        raise ValueError(
            f"{name[:70]!r} is not a network's name: 1 to 63 letters, digits, '.', '_' and '-', "
            "the first a letter or a digit, and no '..'"
        )
    return name


NetworkName = Annotated[
    str, AfterValidator(_name), Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$"})
]
"""What a new network may be called; libvirt names files after it."""


class DnsHost(SpecModel):
    """A name that the network's DNS server knows."""

    address: IpAddress
    """The address it leads to."""
    names: Annotated[tuple[HostName, ...], TextOrList, Field(min_length=1)]
    """One name, or a list."""


class DnsSpec(SpecModel):
    """The network's DNS server."""

    short_form = "enabled"

    enabled: bool = True
    """Whether there is one."""
    forwarders: Annotated[tuple[IpAddress, ...], TextOrList] = ()
    """Who is asked for names that it doesn't know; whom the host asks when none is given."""
    hosts: tuple[DnsHost, ...] = ()
    """Names that it knows, besides those of the network's guests."""

    def _problems(self) -> list[SpecProblem]:
        if self.enabled:
            return []
        return [
            SpecProblem(name, "needs a DNS server; leave it out, or `enabled: false`")
            for name in ("forwarders", "hosts")
            if getattr(self, name)
        ]


class NetworkSpec(SpecDocument):
    """What one network shall be."""

    name: NetworkName
    """Its name."""
    mode: NetworkMode = NetworkMode.NAT
    """What its guests reach."""
    tenant: TenantName | None = None
    """Whose it is: only machines of this tenant may join it."""
    shared: bool = False
    """Whether machines of any tenant may join it; needs `isolate_guests`."""
    reach: Annotated[tuple[Cidr, ...], TextOrList] = ()
    """Private subnets beyond it that machines of tenants reach all the same."""
    keep_from: Annotated[tuple[Cidr, ...], TextOrList] = ()
    """Subnets that they do not reach, beside the private ones: public addresses of the host."""
    bridge: BridgeName | None = None
    """The bridge: the host's own in mode `bridge`; else what libvirt's is called."""
    device: DeviceName | None = None
    """The host's network device: `macvtap` is plugged into it, `nat` and `route` go out by it."""
    macvtap_mode: MacvtapMode | None = None
    """How guests on a macvtap network see each other; `bridge` when it is not given."""
    openvswitch: bool = False
    """Whether the host's bridge is one of Open vSwitch."""
    vlan: Annotated[int, Field(ge=1, le=4094)] | None = None
    """The VLAN of its guests; on Open vSwitch only."""
    ipv4: SubnetSpec | None = None
    """Its IPv4 subnet, or `auto`; `auto` when neither this nor `ipv6` is written, null for none."""
    ipv6: SubnetSpec | None = None
    """Its IPv6 subnet, or `auto`."""
    domain: HostName | None = None
    """The DNS domain of its guests, which is never asked for elsewhere."""
    dns: DnsSpec = DnsSpec()
    """Its DNS server."""
    mtu: Annotated[int, Field(ge=68, le=65535)] | None = None
    """The largest packet, in bytes."""
    bandwidth: BandwidthSpec | None = None
    """How much all of it together may carry, seen from its guests."""
    isolate_guests: bool = False
    """Whether its guests can't reach each other, but only the host and what is beyond."""
    autostart: bool = True
    """Whether it starts together with its host."""

    @property
    def wanted_ipv4(self) -> SubnetSpec | None:
        """Its IPv4 subnet as written, or the default where nothing is."""
        written = self.model_fields_set & {"ipv4", "ipv6"}
        return self.ipv4 if written or not self.mode.is_virtual else SubnetSpec(subnet="auto")

    def with_subnets(self, ipv4: SubnetSpec | None, ipv6: SubnetSpec | None) -> NetworkSpec:
        """Return it with the subnets that were chosen for it."""
        return self.replace(ipv4=ipv4, ipv6=ipv6)

    def _problems(self) -> list[SpecProblem]:
        problems = [*self._of_mode(), *self._of_names(), *self._of_tenants()]
        for name, version in (("ipv4", 4), ("ipv6", 6)):
            subnet: SubnetSpec | None = getattr(self, name)
            if subnet is not None and subnet.version not in {None, version}:
                problems.append(SpecProblem(name, f"{subnet.subnet} is not IPv{version}"))
        if self.ipv6 is not None and self.mtu is not None and self.mtu < _IPV6_MTU:
            problems.append(SpecProblem("mtu", f"IPv6 needs at least {_IPV6_MTU}"))
        return problems

    def _of_mode(self) -> list[SpecProblem]:
        mode = self.mode
        allowed = {
            "bridge": mode is not NetworkMode.MACVTAP,
            "device": mode in {NetworkMode.NAT, NetworkMode.ROUTE, NetworkMode.MACVTAP},
            "macvtap_mode": mode is NetworkMode.MACVTAP,
            "openvswitch": mode is NetworkMode.BRIDGE,
            "vlan": mode is NetworkMode.BRIDGE and self.openvswitch,
            **dict.fromkeys(("ipv4", "ipv6", "domain", "dns", "mtu"), mode.is_virtual),
            "bandwidth": mode.is_virtual,
            "isolate_guests": mode is not NetworkMode.MACVTAP,
        }
        default = {name: type(self).model_fields[name].default for name in allowed}
        given = {name for name in allowed if getattr(self, name) != default[name]}
        # A host's bridge has its MTU, and a virtual one of libvirt's may be given it.
        problems = [
            SpecProblem(name, f"a network of mode {mode} has no such thing; leave it out")
            for name in allowed
            if name in given and not allowed[name]
        ]
        needed = {NetworkMode.BRIDGE: "bridge", NetworkMode.MACVTAP: "device"}.get(mode)
        if needed is not None and needed not in given:
            problems.append(SpecProblem(needed, f"a network of mode {mode} needs it"))
        if not self.openvswitch and "vlan" in given and mode is NetworkMode.BRIDGE:
            problems = [problem for problem in problems if problem.path != "vlan"]
            problems.append(SpecProblem("vlan", "needs Open vSwitch: `openvswitch: true`"))
        return problems

    def _of_tenants(self) -> list[SpecProblem]:
        if self.tenant is None and not self.shared:
            return [
                SpecProblem(name, "is for machines of tenants: write `tenant` or `shared`")
                for name in ("reach", "keep_from")
                if getattr(self, name)
            ]
        if not self.shared:
            return []
        if self.tenant is not None:
            return [SpecProblem("shared", f"it is {self.tenant}'s; leave out one of the two")]
        if not self.isolate_guests:
            what = "tenants would reach each other on it; write `isolate_guests: true`"
            return [SpecProblem("shared", what)]
        return []

    def _of_names(self) -> list[SpecProblem]:
        """What is given twice: a name or an address of a guest."""
        problems = []
        seen: dict[str, str] = {}
        for family in ("ipv4", "ipv6"):
            subnet: SubnetSpec | None = getattr(self, family)
            for index, entry in enumerate(subnet.reservations if subnet else ()):
                path = f"{family}.reservations[{index}]"
                for kind in ("mac", "name"):
                    value = getattr(entry, kind)
                    first = seen.setdefault(f"{family} {kind} {value}".lower(), path)
                    if value is not None and first != path:
                        problems.append(
                            SpecProblem(f"{path}.{kind}", f"{value} has an address by {first}")
                        )
        for index, host in enumerate(self.dns.hosts):
            first = seen.setdefault(host.address, f"dns.hosts[{index}]")
            if first != f"dns.hosts[{index}]":
                problems.append(
                    SpecProblem(f"dns.hosts[{index}].address", f"its names belong into {first}")
                )
        return problems
