"""Network interfaces."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from vmctl.errors import SpecProblem
from vmctl.spec.addresses import BridgeName, InterfaceAddress, IpAddress, MacAddress, Reserve
from vmctl.spec.base import SpecModel
from vmctl.spec.fence import FenceSpec
from vmctl.spec.limits import BandwidthSpec
from vmctl.spec.names import GroupName
from vmctl.spec.text import ObjectName, TextOrList

__all__ = ["ForwardSpec", "LinkState", "NicModel", "NicSpec", "NicType", "Protocol"]


class NicType(StrEnum):
    """What a NIC is plugged into; libvirt's interface types."""

    NETWORK = "network"
    BRIDGE = "bridge"
    USER = "user"


class NicModel(StrEnum):
    """The hardware that the guest sees."""

    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"
    PCNET = "pcnet"
    NE2K_PCI = "ne2k_pci"


class LinkState(StrEnum):
    """Whether the cable is in."""

    UP = "up"
    DOWN = "down"


class Protocol(StrEnum):
    """What a forwarded port speaks."""

    TCP = "tcp"
    UDP = "udp"


Port = Annotated[int, Field(ge=1, le=65535)]


class ForwardSpec(SpecModel):
    """A port of the host that leads to a port of the guest."""

    host: Port
    """The port on the host."""
    guest: Port
    """The port in the guest."""
    protocol: Protocol = Protocol.TCP
    """`tcp` or `udp`."""
    address: IpAddress = "127.0.0.1"
    """The host's address that is listened on; only the host itself reaches the default."""


class NicSpec(SpecModel):
    """One network interface. Its type follows from the key that is given.

    ``network: default``, ``bridge: br0`` or ``user: true`` (QEMU's own user-mode network).
    """

    type: NicType
    """`network`, `bridge` or `user`; follows from the other keys when it is not given."""
    network: ObjectName | None = None
    """The libvirt network to join."""
    bridge: BridgeName | None = None
    """The host's bridge to join."""
    model: NicModel | None = None
    """The hardware that the guest sees."""
    mac: MacAddress | None = None
    """The MAC address; derived from the machine's UUID when it is not given."""
    address: Annotated[tuple[InterfaceAddress, ...], TextOrList] = ()
    """Static addresses with prefix length (`192.0.2.10/24`): one, or a list."""
    gateway: Annotated[tuple[IpAddress, ...], TextOrList] = ()
    """The default route, at most one for IPv4 and one for IPv6: one, or a list."""
    nameservers: Annotated[tuple[IpAddress, ...], TextOrList] = ()
    """DNS servers: one, or a list."""
    dhcp: bool | None = None
    """Whether to ask for an address by DHCP; true when no static address is given."""
    reserve: Reserve | None = None
    """Whether the network's DHCP server keeps an address for it, or which: one, or one each of IPv4
    and IPv6. When it is not given, it does so on networks that vmctl made."""
    forwards: tuple[ForwardSpec, ...] = ()
    """Ports of the host that lead into the guest; not on a bridge of the host's."""
    link: LinkState = LinkState.UP
    """Whether the cable is in, as the guest sees it: `up` or `down`."""
    bandwidth: BandwidthSpec | None = None
    """How much it may carry; not on a user-mode NIC."""
    fence: FenceSpec | None = None
    """What it is kept from; vmctl itself writes it into the spec of a tenant's machine."""
    isolated: bool | None = None
    """Whether it reaches no other guest with an isolated NIC on its bridge; not in user mode."""
    antispoofing: bool | None = None
    """Whether the guest can send by its own addresses only; the profile, or a tenant, decides."""
    security_groups: Annotated[tuple[GroupName, ...], TextOrList] = ()
    """Who may reach it and whom it may: one security group's name, or a list."""

    @property
    def wants_dhcp(self) -> bool:
        """Whether the guest asks for an address by DHCP."""
        return self.dhcp if self.dhcp is not None else not self.address

    @model_validator(mode="before")
    @classmethod
    def _infer_type(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        given = dict(data)
        user = given.pop("user", None)
        kinds = [kind for kind in ("network", "bridge") if given.get(kind) is not None]
        if user is True:
            kinds.append("user")
        elif user not in {None, False}:
            raise ValueError("user is true or left out")
        if given.get("type") is None:
            if not kinds and given.keys() - cls.model_fields.keys():
                kinds = ["user"]  # the unknown field is the better message
            if len(kinds) != 1:
                raise ValueError("a NIC has one of: network: NAME, bridge: NAME, user: true")
            given["type"] = kinds[0]
        elif user is True and given["type"] != "user":
            raise ValueError(f"user: true contradicts type: {given['type']}")
        return given

    def _problems(self) -> list[SpecProblem]:
        problems = self._type_problems()
        problems.extend(self._address_problems())
        problems.extend(self._gateway_problems())
        problems.extend(self._reserve_problems())
        problems.extend(self._filter_problems())
        return problems

    def _type_problems(self) -> list[SpecProblem]:
        problems = []
        for kind in (NicType.NETWORK, NicType.BRIDGE):
            name = getattr(self, kind)
            if self.type is kind and name is None:
                problems.append(SpecProblem(kind, f"a NIC of type {kind} needs the {kind}'s name"))
            if self.type is not kind and name is not None:
                problems.append(SpecProblem(kind, f"a NIC of type {self.type} has no {kind}"))
        if self.bandwidth is not None and self.type is NicType.USER:
            problems.append(SpecProblem("bandwidth", "a user-mode NIC can't be limited"))
        if self.fence is not None and self.type is NicType.USER:
            problems.append(SpecProblem("fence", "a user-mode NIC has no packet filter"))
        if self.isolated and self.type is NicType.USER:
            problems.append(SpecProblem("isolated", "a user-mode NIC reaches no other guest"))
        if self.forwards and self.type is NicType.BRIDGE:
            problems.append(
                SpecProblem(
                    "forwards",
                    "a guest on the host's bridge is reached by its own address; ports lead to one "
                    "on a network, or in user mode (user: true)",
                )
            )
        return problems

    def _filter_problems(self) -> list[SpecProblem]:
        """Find what libvirt's packet filters can't do, or what would leave a gap in them."""
        problems = []
        if self.type is NicType.USER:
            wanted = {"antispoofing": self.antispoofing, "security_groups": self.security_groups}
            problems += [
                SpecProblem(name, "a user-mode NIC has no packet filter; leave it out")
                for name, value in wanted.items()
                if value
            ]
        elif self.security_groups and self.antispoofing is False:
            problems.append(
                SpecProblem(
                    "antispoofing",
                    "security groups know their members by their addresses, which must be the "
                    "guest's own; leave it out, or write true",
                )
            )
        if len(set(self.security_groups)) != len(self.security_groups):
            problems.append(SpecProblem("security_groups", "names a group twice"))
        if self.dhcp and self.is_filtered and any(":" not in text for text in self.address):
            problems.append(
                SpecProblem(
                    "dhcp",
                    "with anti-spoofing, IPv4 addresses are static or come by DHCP, not both",
                )
            )
        return problems

    @property
    def is_filtered(self) -> bool:
        """Whether it has a packet filter, as far as it is written."""
        return bool(self.antispoofing or self.security_groups)

    def _address_problems(self) -> list[SpecProblem]:
        problems = []
        if self.address and self.type is NicType.USER:
            problems.append(
                SpecProblem("address", "a user-mode NIC gets its address from QEMU; leave it out")
            )
        for index, text in enumerate(self.address):
            interface = ipaddress.ip_interface(text)
            if interface.ip.is_multicast or interface.ip.is_unspecified:
                problems.append(SpecProblem(f"address[{index}]", f"{text} is not a host's address"))
            elif interface.network.num_addresses > 2 and interface.version == 4:
                ends = (interface.network.network_address, interface.network.broadcast_address)
                if interface.ip in ends:
                    problems.append(
                        SpecProblem(
                            f"address[{index}]",
                            f"{text} is the network's own or its broadcast address",
                        )
                    )
        return problems

    def _gateway_problems(self) -> list[SpecProblem]:
        problems = []
        versions = set()
        for index, text in enumerate(self.gateway):
            path = f"gateway[{index}]" if len(self.gateway) > 1 else "gateway"
            gateway = ipaddress.ip_address(text)
            networks = [
                interface.network
                for interface in map(ipaddress.ip_interface, self.address)
                if interface.version == gateway.version
            ]
            if gateway.version in versions:
                problems.append(
                    SpecProblem(path, f"there is an IPv{gateway.version} gateway already")
                )
            versions.add(gateway.version)
            if not networks and not gateway.is_link_local:
                problems.append(
                    SpecProblem(path, f"needs a static IPv{gateway.version} address beside it")
                )
            elif not gateway.is_link_local and not any(gateway in net for net in networks):
                nets = ", ".join(str(network) for network in networks)
                problems.append(SpecProblem(path, f"{text} is not inside {nets}"))
        return problems

    @property
    def reserved(self) -> tuple[str, ...]:
        """The addresses that are to be reserved, where they are given."""
        return self.reserve if isinstance(self.reserve, tuple) else ()

    def _reserve_problems(self) -> list[SpecProblem]:
        if not self.reserve:
            return []
        if self.type is not NicType.NETWORK:
            return [SpecProblem("reserve", f"a NIC of type {self.type} has no DHCP server to ask")]
        if self.reserved and not self.wants_dhcp:
            return [SpecProblem("reserve", "the guest has a static address, and asks for none")]
        problems = []
        versions = set()
        for index, text in enumerate(self.reserved):
            path = f"reserve[{index}]" if len(self.reserved) > 1 else "reserve"
            address = ipaddress.ip_address(text)
            if address.is_multicast or address.is_unspecified or address.is_loopback:
                problems.append(SpecProblem(path, f"{text} is not a host's address"))
            elif address.version in versions:
                problems.append(
                    SpecProblem(path, f"there is an IPv{address.version} address already")
                )
            versions.add(address.version)
        return problems

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe ``user: true``, and that the type need not be written."""
        described = super().__get_pydantic_json_schema__(schema, handler)
        inner = handler.resolve_ref_schema(described)
        inner["properties"]["user"] = {
            "type": "boolean",
            "description": "The same as `type: user`.",
        }
        inner.pop("required", None)
        return described
