"""Deadlines, and where a recorded spec says a guest is."""

from __future__ import annotations

import threading
import time

from vmctl.guest.addresses import Endpoint, static_addresses
from vmctl.guest.readiness import Deadlines
from vmctl.hypervisor.events import Signal


def test_deadlines() -> None:
    deadlines = Deadlines(running=1, address=2, ssh=3, cloud_init=4)
    assert deadlines.total == 10
    assert deadlines.shortened(2.5) == Deadlines(running=1, address=2, ssh=2.5, cloud_init=2.5)


def test_static_addresses() -> None:
    spec = {
        "nics": [
            {"mac": "52:54:00:AA:00:01", "address": ["192.0.2.1/24", "2001:db8::1/64"]},
            {"mac": "52:54:00:aa:00:02", "address": "192.0.2.2/24"},
            {"mac": "52:54:00:aa:00:03"},
        ]
    }
    assert static_addresses(spec) == {
        "52:54:00:aa:00:01": ["192.0.2.1", "2001:db8::1"],
        "52:54:00:aa:00:02": ["192.0.2.2"],
        "52:54:00:aa:00:03": [],
    }
    assert static_addresses({}) == {}


def test_an_endpoint_is_written_as_people_do() -> None:
    assert str(Endpoint(address="192.0.2.1", port=22, mac="", source="lease")) == (
        "192.0.2.1:22 (lease)"
    )
    assert str(Endpoint(address="::1", port=22, mac="", source="arp")) == "[::1]:22 (arp)"


def test_a_signal_waits_for_facts() -> None:
    signal = Signal()
    answers = iter([None, None, "yes"])
    waker = threading.Thread(target=signal.notify)
    waker.start()
    found = signal.wait_for(lambda: next(answers), deadline=time.monotonic() + 30, recheck=0.01)
    waker.join()
    assert found == "yes"


def test_a_signal_gives_up_at_the_deadline() -> None:
    seen = []
    signal = Signal()
    assert signal.wait_for(lambda: seen.append(1), deadline=time.monotonic() + 0.05) is None
    # It looks once more at the very end.
    assert len(seen) >= 2
