"""The spec of a clone: what two machines can't both have is left out, given, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from vmctl.cloning.wanted import Wanted, wanted_spec
from vmctl.errors import SpecError, UnsupportedError, UsageError
from vmctl.render.identity import with_macs
from vmctl.spec import VMSpec

WAS = "8d4a2b3c-1111-4222-8333-444455556666"
NEW = "99999999-1111-4222-8333-444455556666"


def recorded(**fields: Any) -> dict[str, Any]:
    spec = VMSpec.model_validate({"name": "first", "disks": [{"size": "1GiB"}]} | fields)
    return with_macs(spec.resolved(), WAS).without_secrets()


def wanted(values: dict[str, Any] | None = None, **fields: Any) -> Wanted:
    fields = {"cloud_init": {}} | fields
    return wanted_spec(recorded(**fields), name="second", uuid=NEW, values=values or {})


def test_names_and_macs_are_its_own() -> None:
    found = wanted(
        nics=[{"network": "default", "mac": "52:54:00:00:00:01"}, {"network": "default"}],
        cloud_init={"hostname": "first", "fqdn": "first.example.org", "timezone": "Europe/Zurich"},
        labels={"role": "db"},
        autostart=True,
    )
    spec = found.spec
    assert spec.name == "second"
    assert spec.autostart is False
    assert spec.labels == {"role": "db"}
    assert spec.cloud_init is not None
    assert (spec.cloud_init.hostname, spec.cloud_init.fqdn) == ("second", None)
    assert spec.cloud_init.timezone == "Europe/Zurich"
    assert found.notes == ("it has no fully qualified host name",)
    assert next(iter(found.macs)) == "52:54:00:00:00:01"
    assert [nic.mac for nic in spec.nics] == list(found.macs.values())
    assert not set(found.macs) & set(found.macs.values())
    assert found.recorded()["name"] == "second"


def test_a_static_address_must_be_another() -> None:
    nics = [{"network": "default", "address": "192.0.2.10/24", "gateway": "192.0.2.1"}]
    with pytest.raises(UnsupportedError, match=r"nics\[0\] of its source has the address 192") as e:
        wanted(nics=nics)
    assert "nics[0].address=" in e.value.hint
    with pytest.raises(UnsupportedError, match="192.0.2.10"):
        wanted({"nics[0].address": "192.0.2.10/25"}, nics=nics)
    (nic,) = wanted({"nics[0].address": "192.0.2.11/24"}, nics=nics).spec.nics
    assert (nic.address, nic.gateway) == (("192.0.2.11/24",), ("192.0.2.1",))
    (nic,) = wanted({"nics[0].address": None}, nics=nics).spec.nics
    assert (nic.address, nic.gateway, nic.wants_dhcp) == ((), (), True)


def test_an_address_that_is_reserved_is_another() -> None:
    nics = [{"network": "default", "reserve": "192.0.2.10"}, {"network": "b", "reserve": False}]
    found = wanted(nics=nics)
    assert [nic.reserve for nic in found.spec.nics] == [True, False]
    with pytest.raises(UsageError, match=r"192.0.2.10 is reserved for nics\[0\] of its source"):
        wanted({"nics[0].reserve": ["192.0.2.10", "2001:db8::1"]}, nics=nics)
    assert wanted({"nics[0].reserve": "192.0.2.11"}, nics=nics).spec.nics[0].reserved == (
        "192.0.2.11",
    )


def test_ports_of_the_host_are_left_out_or_given() -> None:
    fields: dict[str, Any] = {
        "nics": [{"user": True, "forwards": [{"host": 8080, "guest": 80}]}],
        "graphics": [{"type": "vnc", "port": 5907}],
    }
    found = wanted(**fields)
    assert found.spec.nics[0].forwards == ()
    assert found.spec.graphics[0].port is None
    assert len(found.notes) == 1
    given = wanted({"nics[0].forwards": [{"host": 8081, "guest": 80}]}, **fields)
    assert [forward.host for forward in given.spec.nics[0].forwards] == [8081]
    assert given.notes == ()


def test_a_network_configuration_that_is_not_known_must_be_given() -> None:
    config = {"version": 2, "ethernets": {}}
    fields: dict[str, Any] = {"cloud_init": {"network_config": config, "runcmd": ["a"]}}
    with pytest.raises(UnsupportedError, match="does not keep"):
        wanted(**fields)
    found = wanted({"cloud_init.network_config": None}, **fields)
    assert found.recorded()["redacted"] == ["cloud_init.runcmd"]
    found = wanted({"cloud_init.network_config": config}, **fields)
    assert found.spec.cloud_init is not None
    assert found.spec.cloud_init.network_config == config
    assert set(found.recorded()["redacted"]) == {
        "cloud_init.runcmd",
        "cloud_init.network_config",
    }


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"memory": "4GiB"}, UsageError),
        ({"disks[0].size": "4GiB"}, UsageError),
        ({"nics[7].address": "192.0.2.1/24"}, UsageError),
        ({"nics[0].address": "nonsense"}, SpecError),
        ({"nics[0].mac": "52:54:00:00:00:01"}, UsageError),
    ],
)
def test_values_that_a_clone_can_not_be_given(values: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        wanted(values, nics=[{"network": "default", "mac": "52:54:00:00:00:01"}])


def test_a_mac_address_can_be_given() -> None:
    found = wanted(
        {"nics.52:54:00:00:00:01.mac": "52:54:00:00:00:02"},
        nics=[{"network": "default", "mac": "52:54:00:00:00:01"}],
    )
    assert found.macs == {"52:54:00:00:00:01": "52:54:00:00:00:02"}
