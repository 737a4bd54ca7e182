"""Which addresses are planned for a machine, on libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vmctl.errors import SpecError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.reservations import add
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.networking.reserving import plan_addresses
from vmctl.render.identity import with_macs
from vmctl.spec import VMSpec

UUID = "11111111-2222-3333-4444-555555555555"
_NODE = """
<node><network><name>lab</name><bridge name='virbr7'/>
<ip family='ipv6' address='2001:db8::1' prefix='64'>
<dhcp><range start='2001:db8::100' end='2001:db8::1ff'/></dhcp></ip></network></node>
"""


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    node = tmp_path / "node.xml"
    node.write_text(_NODE, encoding="utf-8")
    made = Connection(f"test://{node}")
    yield made
    made.close()


def planned(connection: Connection, name: str, address: str) -> list[tuple[str, str]]:
    nic = {"network": "lab", "reserve": address}
    spec = with_macs(VMSpec.model_validate({"name": name, "nics": [nic]}), UUID)
    found = plan_addresses(connection, spec, UUID)
    return [(entry.entry.address, entry.entry.name) for entry in found]


def test_an_address_of_ipv6_that_is_asked_for_is_kept_or_refused(connection: Connection) -> None:
    assert planned(connection, "web", "2001:db8::7") == [("2001:db8::7", "web")]
    with pytest.raises(SpecError) as no_name:
        planned(connection, "7web", "2001:db8::7")
    assert "host name is none it takes" in str(no_name.value.problems)
    other = ReservedAddress(
        network="lab", mac="52:54:00:00:00:01", address="2001:db8::9", name="web"
    )
    add(connection, other)
    with pytest.raises(SpecError) as taken:
        planned(connection, "web", "2001:db8::7")
    assert "has another one that is 'web'" in str(taken.value.problems)
    assert [problem.path for problem in taken.value.problems] == ["nics[0].reserve"]
