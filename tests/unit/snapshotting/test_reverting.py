"""A guest that a revert lets run on at once: may it, and is there what it refers to?"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from lxml import etree

from vmctl import nic_filters
from vmctl.errors import ConflictError, NotFoundError, VmctlError
from vmctl.hypervisor import reservations
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.snapshotting import inside, joining, reverting

UUID = "11111111-2222-3333-4444-555555555555"
NOW = Record(uuid=UUID, phase=Phase.READY, created="now", spec={"name": "m", "tenant": "acme"})
THEN = Record(
    uuid=UUID,
    phase=Phase.READY,
    created="then",
    spec={"name": "m", "tenant": "acme", "nics": [{"network": "lab", "antispoofing": True}]},
)
MAC = "52:54:00:00:00:01"
SEVEN = ReservedAddress(network="lab", mac=MAC, address="192.0.2.7")


def details(state: str, then: Record = THEN) -> Any:
    root = etree.fromstring(
        f"<domain><uuid>{UUID}</uuid><metadata>{then.to_xml()}</metadata><devices>"
        "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='lab'/>"
        "</interface></devices></domain>"
    )
    facts = SimpleNamespace(name="s", kind="internal", state=state)
    return SimpleNamespace(facts=facts, definition=root, running=root)


def go_back(state: str) -> None:
    domain: Any = SimpleNamespace(
        name="m", connection=None, is_active=lambda: False, record=lambda: NOW
    )
    seen: Any = SimpleNamespace(record=NOW)
    phase: Any = None
    reverting.go_back(domain, seen, details(state), phase=phase)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def refuse(_connection: None, _name: str, tenant: str, networks: list[str]) -> None:
        found.append((tenant, networks))

    monkeypatch.setattr(joining, "refuse_foreign_networks", refuse)
    monkeypatch.setattr(
        nic_filters, "ensure_recorded", lambda _domain, spec: found.append(spec["nics"])
    )
    monkeypatch.setattr(joining, "rejoin", lambda *_args: None)
    monkeypatch.setattr(inside, "go_back", lambda *_args, **_options: found.append("reverted"))
    return found


@pytest.mark.parametrize("state", ["running", "paused"])
def test_filters_of_then_are_there_before_the_guest_is(done: list[Any], state: str) -> None:
    go_back(state)
    assert done == [("acme", ["lab"]), THEN.spec["nics"], "reverted"]


def test_of_a_machine_that_is_off_its_next_start_sees_to_that(done: list[Any]) -> None:
    go_back("shut off")
    assert done == ["reverted"]


def test_a_network_that_is_anothers_now_is_not_run_on(
    done: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise ConflictError("it is another's", hint="detach the NIC")

    monkeypatch.setattr(joining, "refuse_foreign_networks", refuse)
    with pytest.raises(ConflictError):
        go_back("running")
    assert done == []


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        (replace(NOW, addresses=(replace(SEVEN, mac="52:54:00:00:00:02"),)), True),
        (replace(NOW, spec={"nics": [{"network": "lab", "address": "192.0.2.7/24"}]}), True),
        (replace(NOW, phase=Phase.DELETING, addresses=(SEVEN,)), False),
        (replace(NOW, addresses=(replace(SEVEN, network="other"),)), False),
    ],
)
def test_an_address_that_is_anothers_now_is_not_had_again(
    done: list[Any], monkeypatch: pytest.MonkeyPatch, other: Record, refused: bool
) -> None:
    listed = SimpleNamespace(domain=SimpleNamespace(uuid="2", name="heir"), record=other)
    monkeypatch.setattr(joining, "list_domains", lambda _connection: [listed])
    then = details("shut off", replace(THEN, addresses=(SEVEN,)))
    domain: Any = SimpleNamespace(name="m", uuid=UUID, connection=None)
    if not refused:
        joining.prepare(domain, NOW, then)
        return
    with pytest.raises(ConflictError, match=r"192\.0\.2\.7.* is now the address of 'heir'"):
        joining.prepare(domain, NOW, then)
    # It has it still.
    joining.prepare(domain, replace(NOW, addresses=(SEVEN,)), then)


@pytest.mark.parametrize("fault", [None, NotFoundError, ConflictError])
def test_an_address_that_was_free_meanwhile_is_kept_again(
    monkeypatch: pytest.MonkeyPatch, fault: type[VmctlError] | None
) -> None:
    record = NOW

    def update(**changes: Any) -> None:
        nonlocal record
        record = replace(record, **changes)

    def add(_connection: None, entry: ReservedAddress) -> None:
        assert record.addresses == (entry,)
        if fault is not None:
            raise fault("no", hint="none")

    then = details("shut off", replace(THEN, addresses=(SEVEN,)))
    text = etree.tostring(then.definition, encoding="unicode")
    domain: Any = SimpleNamespace(
        name="m",
        connection=None,
        record=lambda: record,
        update_record=update,
        xml=lambda **_options: text,
    )
    monkeypatch.setattr(joining, "changing", lambda _domain, **_options: nullcontext())
    monkeypatch.setattr(reservations, "add", add)
    with pytest.raises(ConflictError) if fault is ConflictError else nullcontext():
        joining.rejoin(domain, NOW, then)
    assert record.addresses == ((SEVEN,) if fault is None else ())
