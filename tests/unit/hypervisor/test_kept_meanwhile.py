"""Entries that others gave to a running network while its definition was written anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from vmctl.hypervisor.kept_meanwhile import carry_over

_DHCP, _DNS = (
    libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST,
    libvirt.VIR_NETWORK_SECTION_DNS_HOST,
)
_ADD, _DELETE = (
    libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST,
    libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE,
)


def host(number: int) -> str:
    return f'<host ip="192.0.2.{number}" mac="52:54:00:00:00:0{number}"/>'


def network(*numbers: int, name: bool = False) -> str:
    dns = "<dns><host ip='192.0.2.7'><hostname>seven</hostname></host></dns>" if name else ""
    hosts = "\n".join(map(host, numbers))
    return (
        f"<network>{dns}<ip family='ipv6' address='2001:db8::1' prefix='64'/>"
        f"<ip address='192.0.2.1' prefix='24'><dhcp>{hosts}</dhcp></ip></network>"
    )


class Raw:
    """libvirt's handle of a network that runs otherwise than it starts."""

    def __init__(self, running: str, following: str, fault: bool = False) -> None:
        self._texts = {0: running, libvirt.VIR_NETWORK_XML_INACTIVE: following}
        self._fault = fault
        self.changes: list[tuple[int, int, int, str]] = []

    def isActive(self) -> int:  # noqa: N802 - libvirt's name
        return 1

    def isPersistent(self) -> int:  # noqa: N802 - libvirt's name
        return 1

    def XMLDesc(self, flags: int) -> str:  # noqa: N802 - libvirt's name
        return self._texts[flags]

    def update(self, command: int, section: int, parent: int, text: str, flags: int) -> None:
        assert flags == libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
        self.changes.append((command, section, parent, text))
        if self._fault:
            raise libvirt.libvirtError("no")


def changes(before: str, raw: Raw) -> list[tuple[int, int, int, str]]:
    connection: Any = SimpleNamespace(raw=SimpleNamespace(networkLookupByName=lambda _name: raw))
    carry_over(connection, "n", before)
    return raw.changes


def test_what_came_and_what_went_meanwhile_is_in_the_definition() -> None:
    raw = Raw(network(1, 3, 7, name=True), network(1, 2))
    seven = '<host ip="192.0.2.7"><hostname>seven</hostname></host>'
    assert sorted(changes(network(1, 2), raw)) == sorted(
        [
            (_DELETE, _DHCP, 1, host(2)),
            (_ADD, _DNS, -1, seven),
            (_ADD, _DHCP, 1, host(3)),
            (_ADD, _DHCP, 1, host(7)),
        ]
    )


def test_what_the_definition_has_by_itself_stays() -> None:
    # Its own next start has it otherwise; or the other change came behind the definition.
    assert changes(network(1, 2), Raw(network(1, 2), network(4))) == []
    assert changes(network(1, 2), Raw(network(1, 3), network(3))) == []
    gone = "<network><ip family='ipv6' address='2001:db8::1' prefix='64'/></network>"
    assert changes(network(), Raw(network(1), gone)) == []


def test_what_libvirt_refuses_is_told() -> None:
    with pytest.raises(Exception, match="could not compare the definitions"):
        changes(network(), Raw(network(1), network(), fault=True))
