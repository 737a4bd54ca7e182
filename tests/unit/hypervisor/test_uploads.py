"""Who is at work on a volume, by the record that lies beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, cast

import pytest

from vmctl.errors import NotFoundError
from vmctl.hypervisor import uploads
from vmctl.hypervisor.claims import Claim, claimed
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.uploads import Note
from vmctl.hypervisor.volumes import StoredVolume

_VOLUME = StoredVolume(cast("Connection", None), "pool", "disk")
_NOTE = Note(_VOLUME, uploads.REMOVING)


def _is_there(monkeypatch: pytest.MonkeyPatch, read: Callable[[], bytes]) -> None:
    monkeypatch.setattr(StoredVolume, "read", lambda _self, **_part: read())
    monkeypatch.setattr(uploads, "_WRITING_SECONDS", 0.01)


def _written(claim: Claim) -> Callable[[], bytes]:
    return lambda: json.dumps(asdict(claim)).encode().ljust(4096)


def test_a_record_lies_beside_its_volume() -> None:
    assert _NOTE.own.name == "disk.vmctl-removing"
    assert Note(_VOLUME, uploads.UPLOADING).own.name == "disk.vmctl-uploading"


def test_somebody_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(60) as claim:
        _is_there(monkeypatch, _written(claim))
        assert _NOTE.left_by() is None
        assert uploads.is_marked(_VOLUME)
    assert _NOTE.left_by() == claim.client
    assert not uploads.is_marked(_VOLUME)


def test_a_record_that_was_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    _is_there(monkeypatch, lambda: bytes(4096))
    assert _NOTE.left_by() == ""
    assert not uploads.is_marked(_VOLUME)


def test_a_record_that_is_just_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(60) as claim:
        reads = iter([bytes(4096), _written(claim)()])
        _is_there(monkeypatch, lambda: next(reads))
        assert uploads.is_marked(_VOLUME)


def test_work_that_ended_meanwhile_was_left_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its volume is whole by now: `gc` must not take it for half an upload."""

    def gone() -> Any:
        raise NotFoundError("there is no volume", hint="")

    _is_there(monkeypatch, gone)
    assert _NOTE.left_by() is None
    assert not uploads.is_marked(_VOLUME)
