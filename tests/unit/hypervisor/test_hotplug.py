"""What a guest says when it is asked to let go of a device.

No guest here refuses: Linux lets go of what is mounted. So what libvirt would tell of one that does
is told by the test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from vmctl.errors import WaitTimeoutError, WrongStateError
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import EventHub

_UUID = "7d1a3c6e-5a0b-4a43-9f0e-2f1f5c1b9d10"
_DISK = "<disk><target dev='vdb'/><alias name='virtio-disk1'/></disk>"
_REMOVED = libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED
_REFUSED = libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED


@dataclass(frozen=True)
class Guest(Domain):
    """A running machine with one disk, whose guest answers as it was told."""

    answer: int | None = None
    asked: list[str] = field(default_factory=list)

    def xml(self, *, inactive: bool = False) -> str:
        gone = self.asked and self.answer == _REMOVED
        return f"<domain><devices>{'' if gone else _DISK}</devices></domain>"

    def is_active(self) -> bool:
        return True

    def raw(self) -> Any:
        def detach(alias: str, flags: int) -> None:
            assert flags == libvirt.VIR_DOMAIN_AFFECT_LIVE
            self.asked.append(alias)
            if self.answer is not None:
                handle = SimpleNamespace(UUIDString=lambda: _UUID)
                self.connection.events._on_event(None, handle, alias, self.answer)

        return SimpleNamespace(detachDeviceAlias=detach)


def guest(answer: int | None) -> Guest:
    connection: Any = SimpleNamespace(events=EventHub())
    return Guest(connection, _UUID, "web", answer=answer)


def test_a_guest_that_lets_go() -> None:
    machine = guest(_REMOVED)
    hotplug.detach_now(machine, "disk", "vdb", timeout=5)
    assert machine.asked == ["virtio-disk1"]
    # What isn't there any more is no work.
    hotplug.detach_now(machine, "disk", "vdb", timeout=5)
    assert machine.asked == ["virtio-disk1"]


def test_a_guest_that_refuses_is_told_at_once() -> None:
    with pytest.raises(WrongStateError, match="refused to let go of vdb") as caught:
        hotplug.detach_now(guest(_REFUSED), "disk", "vdb", timeout=3600)
    assert "uses it" in caught.value.hint


def test_a_guest_that_does_not_answer() -> None:
    with pytest.raises(WaitTimeoutError, match=r"did not let go of vdb within 0\.05 s") as caught:
        hotplug.detach_now(guest(None), "disk", "vdb", timeout=0.05)
    assert caught.value.phase == "detach"
