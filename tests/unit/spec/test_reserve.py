"""Which address is kept for a NIC: how it is written, what is refused, and how one is chosen."""

from __future__ import annotations

import ipaddress

import pytest

from vmctl.errors import SpecError
from vmctl.render.identity import mac_address, with_macs
from vmctl.spec import NicSpec, VMSpec
from vmctl.spec.free_addresses import free_addresses

UUID = "8d4a2b3c-1111-4222-8333-444455556666"


def nic(**fields: object) -> NicSpec:
    return NicSpec.model_validate({"network": "lab"} | fields)


def test_how_it_can_be_written() -> None:
    assert nic().reserve is None
    assert nic(reserve=True).reserve is True
    assert nic(reserve=False).reserved == ()
    assert nic(reserve="192.0.2.9").reserved == ("192.0.2.9",)
    both = nic(reserve=["192.0.2.9", "2001:DB8:0::9"])
    assert both.reserved == ("192.0.2.9", "2001:db8::9")
    assert NicSpec.model_validate_json(both.model_dump_json()) == both


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reserve": "192.0.2.9/24"}, "reserve: '192.0.2.9/24' is not an IP address"),
        ({"reserve": []}, "reserve: is an empty list; write false"),
        ({"reserve": 7}, "reserve: true, false, an IP address, or a list of them"),
        ({"reserve": ["192.0.2.9", "192.0.2.8"]}, "reserve[1]: there is an IPv4 address already"),
        ({"reserve": "224.0.0.1"}, "reserve: 224.0.0.1 is not a host's address"),
        ({"reserve": "127.0.0.1"}, "reserve: 127.0.0.1 is not a host's address"),
        (
            {"reserve": "192.0.2.9", "address": "192.0.2.8/24"},
            "reserve: the guest has a static address, and asks for none",
        ),
        (
            {"network": None, "bridge": "br0", "reserve": True},
            "reserve: a NIC of type bridge has no DHCP server to ask",
        ),
    ],
)
def test_what_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        nic(**fields)
    assert words in str(caught.value)


def test_an_address_is_of_one_nic() -> None:
    nics = [{"network": "a", "address": "192.0.2.9/24"}, {"network": "a", "reserve": "192.0.2.9"}]
    with pytest.raises(SpecError, match=r"nics\[1\].reserve: 192.0.2.9 is nics\[0\]'s already"):
        VMSpec.model_validate({"name": "a", "disks": [{"size": "1GiB"}], "nics": nics})


def test_a_given_address_decides_the_mac_whatever_the_machine() -> None:
    """So the lease of a machine that is gone doesn't keep the address from the next one."""
    nics = [{"network": "lab", "reserve": "192.0.2.9"}, {"network": "lab"}]
    spec = VMSpec.model_validate({"name": "a", "disks": [{"size": "1GiB"}], "nics": nics})
    one, two = with_macs(spec, UUID), with_macs(spec, UUID.replace("8", "9"))
    assert one.nics[0].mac == two.nics[0].mac
    assert one.nics[1].mac == mac_address(UUID, 1) != two.nics[1].mac
    elsewhere = spec.replace(nics=[{"network": "lab2", "reserve": "192.0.2.9"}])
    assert with_macs(elsewhere, UUID).nics[0].mac != one.nics[0].mac


def test_free_addresses_are_of_the_range_first_and_then_of_the_subnet() -> None:
    network = ipaddress.ip_network("192.0.2.0/28")
    ranges = [(network[4], network[6])]
    taken = {"192.0.2.1", "192.0.2.5"}
    found = list(free_addresses(network, ranges, taken, mac="52:54:00:00:00:01"))
    assert set(found[:2]) == {"192.0.2.4", "192.0.2.6"}
    hosts = {str(host) for host in network.hosts()}
    assert set(found) == hosts - taken
    assert len(found) == len(set(found))
    assert list(free_addresses(network, ranges, hosts, mac="52:54:00:00:00:01")) == []


def test_other_nics_begin_elsewhere_and_the_same_one_where_it_was() -> None:
    network = ipaddress.ip_network("2001:db8::/64")
    ranges = [(network[0x100], network[0x1FF])]

    def first(mac: str) -> str:
        return next(free_addresses(network, ranges, set(), mac=mac))

    macs = [f"52:54:00:00:00:{number:02x}" for number in range(32)]
    assert [first(mac) for mac in macs] == [first(mac.upper()) for mac in macs]
    assert len({first(mac) for mac in macs}) > 20
