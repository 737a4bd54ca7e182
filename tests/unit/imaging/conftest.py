"""A server that misbehaves, and limits that make its misbehaviour short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http_server import Server, serving
from vmctl.imaging.http import Limits


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as running:
        yield running


@pytest.fixture
def limits() -> Limits:
    return Limits(connect=5, stall=5, attempts=3, pause=0, least=1)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "downloads"
