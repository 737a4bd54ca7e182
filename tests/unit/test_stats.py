"""Rates from two measurements, of figures as libvirt gives them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

import vmctl
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.figures import Figures
from vmctl.stats import MachineStats, of_names, stats_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DOMAIN = Domain(cast(Connection, None), "11111111-2222-3333-4444-555555555555", "m")
VALUES: dict[str, Any] = {
    "cpu.time": 4_000_000_000,
    "vcpu.current": 2,
    "balloon.maximum": 1024,
    "balloon.current": 512,
    "balloon.available": 500,
    "balloon.usable": 300,
    "balloon.last-update": 1_767_323_040,
    "block.count": 2,
    "block.0.name": "vda",
    "block.0.rd.bytes": 1000,
    "block.0.wr.bytes": 50,
    "block.1.name": "sda",
    "net.count": 2,
    "net.0.name": "vnet0",
    "net.0.rx.bytes": 100,
    "net.0.tx.bytes": 200,
}


def stats(before: MachineStats | None = None, clock: float = 10.0, **changes: Any) -> MachineStats:
    values = VALUES | {key.replace("__", "."): value for key, value in changes.items()}
    return stats_of(Figures(DOMAIN, State.RUNNING, values), NOW, clock, before)


def test_one_measurement_has_totals_and_no_rates() -> None:
    found = stats()
    assert (found.cpu.count, found.cpu.seconds, found.cpu.percent) == (2, 4.0, None)
    assert (found.memory.maximum, found.memory.current) == (1 << 20, 512 << 10)
    assert (found.memory.used, found.memory.unused) == (200 << 10, None)
    assert found.memory.reported == datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert [disk.target for disk in found.disks] == ["vda", "sda"]
    assert (found.disks[0].read_bytes, found.disks[0].read_rate) == (1000, None)
    assert found.disks[1].read_bytes is None
    # The second NIC is in user mode: libvirt knows nothing of it.
    assert [(nic.device, nic.received_bytes) for nic in found.nics] == [("vnet0", 100), ("", None)]


def test_two_measurements_have_rates() -> None:
    changes = {"cpu__time": 7_000_000_000, "block__0__wr__bytes": 2050, "net__0__rx__bytes": 500}
    found = stats(stats(), 12.0, **changes)
    assert found.cpu.percent == 150.0
    assert (found.disks[0].read_rate, found.disks[0].write_rate) == (0.0, 1000.0)
    assert (found.nics[0].receive_rate, found.nics[0].send_rate) == (200.0, 0.0)
    assert found.nics[1].receive_rate is None


def test_a_machine_that_was_started_anew_in_between_has_no_rates() -> None:
    found = stats(stats(), 12.0, cpu__time=1)
    assert found.cpu.percent is None
    assert stats(stats(), 10.0).cpu.percent is None


def test_figures_that_are_not_to_be_had_are_none() -> None:
    found = stats_of(Figures(DOMAIN, State.SHUT_OFF, {}), NOW, 1.0, stats())
    assert (found.cpu.seconds, found.memory.current, found.disks, found.nics) == (
        None,
        None,
        (),
        (),
    )


def test_names() -> None:
    one = stats()
    two = replace(one, name="n", uuid="22222222-2222-3333-4444-555555555555")
    assert of_names([one, two], ()) == [one, two]
    assert of_names([one, two], ["n", DOMAIN.uuid, "n"]) == [two, one]
    with pytest.raises(vmctl.NotFoundError, match="no machine 'x'"):
        of_names([one], ["x"])
