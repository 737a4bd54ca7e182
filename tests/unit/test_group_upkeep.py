"""Rules name addresses of who is in a security group: when they are brought into line."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from vmctl import gc, group_members
from vmctl.errors import HypervisorError, NotFoundError
from vmctl.hypervisor import names, reservations
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.networking import moving
from vmctl.removal import remove_machine
from vmctl.spec import VMSpec

UUID = "11111111-2222-3333-4444-555555555555"
MAC = "52:54:00:00:00:01"
RECORD = Record(
    uuid=UUID,
    phase=Phase.READY,
    created="2026-01-01T00:00:00+00:00",
    spec={"name": "m", "nics": [{"network": "n", "mac": MAC, "security_groups": ["web"]}]},
    addresses=(ReservedAddress(network="n", mac=MAC, address="192.0.2.7"),),
)


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = Connection("test:///default")
    yield made
    made.close()


@pytest.mark.parametrize("fault", [None, HypervisorError("no rules", code=1, hint="none")])
def test_an_address_is_free_when_no_rule_names_it_any_more(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, fault: HypervisorError | None
) -> None:
    done: list[tuple[str, Any]] = []

    def refresh(_connection: Connection, groups: set[str]) -> None:
        found = names.find(connection, "m").record()
        done.append(("refresh", (groups, found.phase if found else None)))
        if fault is not None:
            raise fault

    monkeypatch.setattr(group_members, "refresh", refresh)
    monkeypatch.setattr(
        reservations, "release", lambda _domain, entry: done.append(("release", entry.address))
    )
    # libvirt's test driver knows none of its flags.
    monkeypatch.setattr(Domain, "undefine", lambda domain: domain.raw().undefine())
    xml = (
        f"<domain type='test'><name>m</name><uuid>{UUID}</uuid><memory>65536</memory>"
        f"<os><type>hvm</type></os><metadata>{RECORD.to_xml()}</metadata></domain>"
    )
    if fault is None:
        remove_machine(names.define(connection, xml, name="m", uuid=UUID), RECORD)
    else:
        with pytest.raises(HypervisorError, match="no rules"):
            remove_machine(names.define(connection, xml, name="m", uuid=UUID), RECORD)
    with pytest.raises(NotFoundError):
        names.find(connection, "m")
    assert done == [("refresh", ({"web"}, Phase.DELETING)), ("release", "192.0.2.7")]


def test_gc_corrects_what_a_killed_client_left_in_rules(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[set[str]] = []
    monkeypatch.setattr(
        group_members, "read_groups", lambda _connection: [SimpleNamespace(name="web")]
    )
    monkeypatch.setattr(group_members, "refresh", lambda _connection, groups: done.append(groups))
    gc.collect(connection, dry_run=True)
    assert done == []
    gc.collect(connection, dry_run=False)
    assert done == [{"web"}]


def test_a_nic_that_moves_is_known_by_its_new_address(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    nic = {"network": "n", "mac": MAC, "security_groups": ["web"]}
    before = VMSpec.model_validate({"name": "m", "nics": [nic]})
    after = VMSpec.model_validate({"name": "m", "nics": [nic | {"network": "other"}]})
    domain: Any = SimpleNamespace(connection=None, uuid=UUID)
    monkeypatch.setattr(moving, "plan_addresses", lambda *_args: ())
    monkeypatch.setattr(moving, "settle", lambda _domain: done.append("freed"))
    monkeypatch.setattr(group_members, "refresh", lambda _connection, groups: done.append(groups))
    with moving.moved(domain, RECORD, before, before):
        pass
    assert done == ["freed"]
    with moving.moved(domain, RECORD, before, after):
        done.append("moved")
    assert done == ["freed", "moved", "freed", {"web"}]
