"""What networks keep for guests, on libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vmctl.errors import ConflictError, NotFoundError, UsageError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.reservations import add, read_kept, remove, served_by
from vmctl.hypervisor.reserved_addresses import ReservedAddress

_NODE = """
<node><network><name>lab</name><domain name='lab.example'/><bridge name='virbr7'/>
<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.100' end='192.0.2.199'/></dhcp></ip>
<ip family='ipv6' address='2001:db8::1' prefix='64'>
<dhcp><range start='2001:db8::100' end='2001:db8::1ff'/></dhcp></ip></network>
<network><name>bare</name><dns enable='no'/><bridge name='virbr8'/>
<ip address='198.51.100.1' netmask='255.255.255.0'/></network></node>
"""
WEB = ReservedAddress(
    network="lab", mac="52:54:00:00:00:01", address="192.0.2.7", name="web", static=True
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    node = tmp_path / "node.xml"
    node.write_text(_NODE, encoding="utf-8")
    made = Connection(f"test://{node}")
    yield made
    made.close()


def kept(connection: Connection) -> list[tuple[str, str, str]]:
    subnets = served_by(connection, "lab").subnets
    return [(entry.address, entry.mac, entry.name) for subnet in subnets for entry in subnet.kept]


def test_what_a_network_does_is_read(connection: Connection) -> None:
    lab, bare = served_by(connection, "lab"), served_by(connection, "bare")
    assert (lab.made_by_vmctl, lab.domain, lab.dns_names) == (False, "lab.example", frozenset())
    assert [(subnet.index, str(subnet.network)) for subnet in lab.subnets] == [
        (0, "192.0.2.0/24"),
        (1, "2001:db8::/64"),
    ]
    (only,) = bare.subnets
    assert (only.serves_dhcp, str(only.host), str(only.network)) == (
        False,
        "198.51.100.1",
        "198.51.100.0/24",
    )
    assert bare.dns_names is None
    inside = lab.subnet_of("2001:db8::9")
    assert inside is not None
    assert inside.index == 1
    assert lab.subnet_of("203.0.113.1") is None
    with pytest.raises(NotFoundError, match="there is no network 'none'"):
        served_by(connection, "none")


def test_an_entry_comes_and_goes_with_its_name(connection: Connection) -> None:
    six = replace(WEB, address="2001:db8::7")
    add(connection, WEB)
    add(connection, six)
    assert kept(connection) == [("192.0.2.7", WEB.mac, "web"), ("2001:db8::7", "", "web")]
    # A static address of IPv6 has no name in the DNS server: libvirt could not remove it again.
    assert served_by(connection, "lab").dns_names == frozenset({"web"})
    assert "2001:db8::7" not in read_kept(connection).get(WEB.mac, [])
    assert read_kept(connection) == {WEB.mac: ["192.0.2.7"]}
    for _again in range(2):
        remove(connection, WEB)
        remove(connection, six)
    assert kept(connection) == []
    assert served_by(connection, "lab").dns_names == frozenset()


@pytest.mark.parametrize(
    "changes",
    [
        {"mac": "52:54:00:00:00:02", "name": "db"},
        {"address": "192.0.2.8", "name": "db"},
        {"mac": "52:54:00:00:00:02", "address": "192.0.2.8"},
        {"name": "db"},
    ],
)
def test_what_another_guest_has_is_not_taken_and_not_removed(
    connection: Connection, changes: dict[str, str]
) -> None:
    add(connection, WEB)
    other = replace(WEB, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match="does not take this reservation") as caught:
        add(connection, other)
    assert caught.value.details
    remove(connection, other)
    assert kept(connection) == [("192.0.2.7", WEB.mac, "web")]
    assert served_by(connection, "lab").dns_names == frozenset({"web"})
    remove(connection, WEB)


def test_a_network_that_is_off_and_one_that_is_gone(connection: Connection) -> None:
    raw = connection.raw.networkLookupByName("lab")
    raw.destroy()
    add(connection, WEB)
    assert kept(connection) == [("192.0.2.7", WEB.mac, "web")]
    raw.create()
    assert kept(connection) == [("192.0.2.7", WEB.mac, "web")]
    remove(connection, WEB)
    assert kept(connection) == []
    with pytest.raises(NotFoundError, match="has no subnet with 203.0.113.9 any more"):
        add(connection, replace(WEB, address="203.0.113.9"))
    remove(connection, replace(WEB, network="gone"))
    with pytest.raises(NotFoundError):
        add(connection, replace(WEB, network="gone"))


@pytest.mark.parametrize(
    "name",
    [
        "x'/><host mac='52:54:00:00:00:09' ip='192.0.2.9",
        "a b",
        "a,ignore",
        "1a",
        "a\n",
        "a" * 64,
        "-",
    ],
)
def test_a_hostile_name_does_not_get_to_libvirt(connection: Connection, name: str) -> None:
    """The spec refuses it before. libvirt 9.0 would write it into its XML as it is."""
    with pytest.raises(UsageError, match="can't be a guest's name"):
        add(connection, replace(WEB, name=name))
    assert kept(connection) == []
