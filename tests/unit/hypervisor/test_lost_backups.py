"""A backup that libvirt waits for, and QEMU does not know: no libvirtd can be killed so exactly."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from vmctl.hypervisor import backups
from vmctl.hypervisor.events import EventHub


class Raw:
    """libvirt's handle of a machine that it says is being backed up until that is aborted."""

    def __init__(self, figures: dict[str, int], *, job: bool) -> None:
        self.figures = {"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, **figures}
        self.job = job
        self.aborted = threading.Event()

    def jobStats(self, _flags: int) -> dict[str, int]:  # noqa: N802 - libvirt's name
        return self.figures

    def blockJobInfo(self, _target: str, _flags: int) -> dict[str, int]:  # noqa: N802
        return {"type": libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP} if self.job else {}

    def backupGetXMLDesc(self, _flags: int) -> str:  # noqa: N802
        return "<domainbackup/>"

    def abortJob(self) -> None:  # noqa: N802
        self.aborted.set()


def watched(raw: Raw, monkeypatch: pytest.MonkeyPatch, seconds: float) -> backups.Job | None:
    monkeypatch.setattr(backups, "_LONGEST_IDLE_SECONDS", 0.3)
    events = EventHub()
    domain: Any = SimpleNamespace(
        uuid="u",
        name="m",
        raw=lambda: raw,
        is_active=lambda: True,
        disks=lambda: [SimpleNamespace(target="vda")],
        acting=lambda _doing: nullcontext(raw),
        connection=SimpleNamespace(events=events),
    )
    return backups.await_end(domain, seconds=seconds, tell=lambda _job: None)


def test_one_that_qemu_knows_nothing_of_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw({}, job=False)
    began = time.monotonic()
    assert watched(raw, monkeypatch, 60) == backups.Job(ended=True, succeeded=None)
    assert raw.aborted.is_set()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("raw", [Raw({"disk_total": 9}, job=False), Raw({}, job=True)])
def test_one_that_qemu_is_at_is_waited_for(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(raw, monkeypatch, 1) is None
    assert not raw.aborted.is_set()
