"""What a network does with what goes beyond it, as far as packet filters see it or don't."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vmctl import nic_filters
from vmctl.errors import UnsupportedError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.kept_addresses import forward_mode
from vmctl.spec import NicSpec

BRIDGE = "<forward mode='bridge'/><bridge name='br0'/>"
IPV6 = "<ip family='ipv6' address='fd00:1::1' prefix='64'/>"
IPV4 = "<ip address='10.1.0.1' prefix='24'/>"
MODES = {
    IPV4: "",
    f"<forward mode='nat'/>{IPV4}": "nat",
    f"<forward mode='nat'><nat ipv6='yes'/></forward>{IPV4}{IPV6}": "nat",
    f"<forward mode='nat'/>{IPV4}{IPV6}": "route",
    f"<forward mode='route'/>{IPV4}": "route",
    BRIDGE: "bridge",
    f"{BRIDGE}<virtualport type='openvswitch'/>": "openvswitch",
    f"{BRIDGE}<portgroup name='a'><virtualport type='openvswitch'/></portgroup>": "openvswitch",
    "<forward mode='bridge'><interface dev='eth0'/></forward>": "macvtap",
    "<forward mode='passthrough'><pf dev='eth0'/></forward>": "macvtap",
    "<forward mode='hostdev'><pf dev='eth0'/></forward>": "hostdev",
}


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    made = Connection("test:///default")
    yield made
    made.close()


@pytest.mark.parametrize(("inner", "mode"), MODES.items())
def test_mode(connection: Connection, inner: str, mode: str) -> None:
    raw = connection.raw.networkDefineXML(f"<network><name>n</name>{inner}</network>")
    try:
        assert forward_mode(connection, "n") == mode
        if mode in {"macvtap", "hostdev", "openvswitch"}:
            nic = NicSpec.model_validate({"network": "n", "antispoofing": True})
            with pytest.raises(UnsupportedError, match="can't filter"):
                nic_filters.refuse_unfilterable(connection, [("nics[0]", nic)])
    finally:
        raw.undefine()
