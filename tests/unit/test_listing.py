"""A list costs the same number of libvirt calls for one machine as for many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import vmctl
from vmctl import listing
from vmctl.hypervisor import overview
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.info import MachineSummary
from vmctl.render.identity import mac_address

from ..libvirt_calls import counted


@pytest.fixture
def host_of(tmp_path: Path) -> Callable[[int], str]:
    """Name a host of libvirt's test driver with so many machines."""

    def name(count: int) -> str:
        domains = []
        for number in range(count):
            uuid = f"11111111-2222-3333-4444-{number:012}"
            record = Record(
                uuid=uuid,
                phase=Phase.DELETING if number else Phase.READY,
                created="2026-01-01T00:00:00+00:00",
                spec={"labels": {"n": str(number)}},
            )
            domains.append(
                f"<domain type='test'><name>m{number:03}</name><uuid>{uuid}</uuid>"
                "<memory>65536</memory><os><type>hvm</type></os>"
                f"<metadata>{record.to_xml()}</metadata></domain>"
            )
        node = tmp_path / f"node-{count}.xml"
        node.write_text(f"<node>{''.join(domains)}</node>")
        return f"test://{node}"

    return name


def calls_of(uri: str, *, details: bool) -> tuple[Counter[str], list[MachineSummary]]:
    with vmctl.connect(uri) as host, counted() as calls:
        found = list(host.list(details=details))
    return calls, found


def test_a_list_of_200_takes_the_calls_of_a_list_of_one(host_of: Callable[[int], str]) -> None:
    one, _ = calls_of(host_of(1), details=False)
    many, found = calls_of(host_of(200), details=False)
    assert [entry.name for entry in found] == [f"m{number:03}" for number in range(200)]
    assert one == many
    assert one["virConnectGetAllDomainStats"] == 1
    assert not {name for name in one if name.startswith("virDomain")}
    assert (found[0].state, found[0].phase, found[0].labels) == ("running", None, None)


def test_a_measurement_of_200_takes_the_calls_of_one(host_of: Callable[[int], str]) -> None:
    """Of `top`, each round is one; that of the test driver's machines has no figures."""
    seen = []
    for count in (1, 200):
        with vmctl.connect(host_of(count)) as host, counted() as calls:
            assert len(host.stats()) == count
        seen.append(calls)
    assert seen[0] == seen[1]
    assert seen[0]["virConnectGetAllDomainStats"] == 1


def test_details_are_asked_for_one_by_one(host_of: Callable[[int], str]) -> None:
    calls, found = calls_of(host_of(3), details=True)
    assert calls["virDomainGetMetadata"] == 3
    assert [(entry.phase, entry.labels) for entry in found] == [
        ("ready", {"n": "0"}),
        ("deleting", {"n": "1"}),
        ("deleting", {"n": "2"}),
    ]


def test_an_address_is_found_by_the_mac_that_vmctl_chose(
    host_of: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = "11111111-2222-3333-4444-000000000000"
    leases = {mac_address(uuid, 0): ["192.0.2.7"], "52:54:00:00:00:01": ["192.0.2.8"]}
    monkeypatch.setattr(overview, "read_leases", lambda _connection: leases)
    with vmctl.connect(host_of(1)) as host:
        (plugged,) = overview.read_overview(host._connection)
        assert host.list()[0].addresses == ()
        kept = {mac_address(uuid, 1): ["192.0.2.9"]}
        with monkeypatch.context() as patch:
            patch.setattr(listing, "read_kept", lambda _connection: kept)
            # It is off, and has the address all the same.
            assert host.list()[0].addresses == ("192.0.2.9",)
        seen = overview.Seen(
            domain=plugged.domain,
            state=plugged.state,
            reason="booted",
            nics=1,
            autostart=True,
            saved=False,
        )
        monkeypatch.setattr(overview, "read_overview", lambda _connection: [seen])
        (line,) = host.list()
    assert (line.addresses, line.state_reason, line.autostart) == (("192.0.2.7",), "booted", True)
