"""A guest that a revert lets run on at once: may it, and is there what it refers to?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lxml import etree

from vmctl import nic_filters
from vmctl.errors import ConflictError
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.snapshotting import inside, reverting

UUID = "11111111-2222-3333-4444-555555555555"
NOW = Record(uuid=UUID, phase=Phase.READY, created="now", spec={"name": "m", "tenant": "acme"})
THEN = Record(
    uuid=UUID,
    phase=Phase.READY,
    created="then",
    spec={"name": "m", "tenant": "acme", "nics": [{"network": "lab", "antispoofing": True}]},
)


def details(state: str) -> Any:
    root = etree.fromstring(
        f"<domain><uuid>{UUID}</uuid><metadata>{THEN.to_xml()}</metadata><devices>"
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

    monkeypatch.setattr(reverting, "refuse_foreign_networks", refuse)
    monkeypatch.setattr(
        nic_filters, "ensure_recorded", lambda _domain, spec: found.append(spec["nics"])
    )
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

    monkeypatch.setattr(reverting, "refuse_foreign_networks", refuse)
    with pytest.raises(ConflictError):
        go_back("running")
    assert done == []
