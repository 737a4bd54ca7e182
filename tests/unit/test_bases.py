"""Somebody else's upload: it moves, or it stands still."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vmctl import bases
from vmctl.errors import NotFoundError, WrongStateError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.pools import Pool
from vmctl.hypervisor.volumes import StoredVolume, VolumeStamp
from vmctl.progress import Reporter

_POOL = Pool(cast("Connection", None), "pool", "/pool")
_VOLUME = StoredVolume.of(_POOL, bases.name_for("0" * 64))
_is_complete = bases.is_complete
_XML = "<volume type='file'><target><timestamps><mtime>{}</mtime></timestamps></target></volume>"


def test_one_that_libvirt_is_just_making_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several launches that bring the same image: one is within the making of its volume."""
    heads: list[bytes | Exception] = [
        WrongStateError("it is still being allocated", state="", hint=""),
        b"\0\0\0\0",
        b"QFI\xfb",
    ]

    def read(_volume: StoredVolume, **_part: int) -> bytes:
        head = heads.pop(0)
        if isinstance(head, Exception):
            raise head
        return head

    monkeypatch.setattr(StoredVolume, "read", read)
    assert [_is_complete(_POOL, _VOLUME.name) for _ in range(3)] == [False, False, True]


@pytest.fixture(autouse=True)
def _half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "is_complete", lambda _pool, _volume: False)
    monkeypatch.setattr(bases, "_STALLED_SECONDS", 0.05)


def _stands_still(monkeypatch: pytest.MonkeyPatch, look: Any) -> bool:
    monkeypatch.setattr(StoredVolume, "raw", lambda _self: look())
    with Reporter("x", None).phase("upload") as phase:
        return bases._stands_still(_POOL, _VOLUME, phase)


def _volume(allocation: int, mtime: str) -> Any:
    return SimpleNamespace(
        info=lambda: [0, 8192, allocation], XMLDesc=lambda _flags: _XML.format(mtime)
    )


def test_what_is_written_over_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an upload that was taken over: all its blocks are there already."""
    times = count()
    assert not _stands_still(monkeypatch, lambda: _volume(4096, f"1700000000.{next(times):09}"))


def test_what_grows_moves_where_no_time_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = count()
    assert not _stands_still(monkeypatch, lambda: _volume(next(sizes), ""))


def test_what_nobody_writes_to_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _stands_still(monkeypatch, lambda: _volume(4096, "1700000000.000000001"))


def test_what_was_removed_meanwhile_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([_volume(4096, "1.0")])

    def look() -> Any:
        for volume in seen:
            return volume
        raise NotFoundError("it is gone", hint="")

    assert not _stands_still(monkeypatch, look)


def test_a_volume_without_times(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = SimpleNamespace(info=lambda: [0, 1, 2], XMLDesc=lambda _flags: "<volume/>")
    monkeypatch.setattr(StoredVolume, "raw", lambda _self: bare)
    assert _VOLUME.stamp() == VolumeStamp(allocation=2, written="", touched="")


def test_a_write_waits_for_who_reads_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt refuses it, before anything is sent, while another client looks at the volume."""
    monkeypatch.setattr(bases, "_BUSY_SECONDS", 0.3)
    busy = WrongStateError("the volume is still in use", state="", hint="")
    left = [busy, busy]
    written = []

    def write() -> None:
        if left:
            raise left.pop()
        written.append(True)

    bases._when_free(write)
    assert written == [True]

    def never() -> None:
        raise busy

    with pytest.raises(WrongStateError, match="still in use"):
        bases._when_free(never)
