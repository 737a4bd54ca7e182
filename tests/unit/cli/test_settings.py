"""Flag, environment, configuration file, default."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.cli.settings import Settings, config_path, load_settings
from vmctl.errors import UsageError


def _write(text: str) -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_there_are_defaults() -> None:
    assert load_settings({}) == Settings(uri=None, format="table", pool=None, accel=None)


def test_each_source_wins_over_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    _write('uri = "test:///file"\nformat = "yaml"\npool = "file"\naccel = "kvm"\n')
    assert load_settings({}) == Settings(
        uri="test:///file", format="yaml", pool="file", accel="kvm"
    )
    monkeypatch.setenv("VMCTL_URI", "test:///variable")
    monkeypatch.setenv("VMCTL_FORMAT", "json")
    monkeypatch.setenv("VMCTL_POOL", "variable")
    monkeypatch.setenv("VMCTL_ACCEL", "")
    assert load_settings({"uri": "test:///flag", "format": None}) == Settings(
        uri="test:///flag", format="json", pool="variable", accel="kvm"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('urii = "x"', "did you mean 'uri'?"),
        ('strange = "x"', "the settings are uri, format, pool, accel"),
        ("pool = 3", "put it in quotes"),
        ('format = "xml"', "it can be table, json or yaml"),
        ('accel = "hvf"', "it can be auto, kvm or tcg"),
        ("uri = ", ""),
    ],
)
def test_a_wrong_file_is_a_usage_error_that_names_it(text: str, words: str) -> None:
    path = _write(text)
    with pytest.raises(UsageError) as caught:
        load_settings({})
    assert str(path) in caught.value.brief
    assert words in caught.value.hint


def test_a_file_that_is_no_text_is_a_usage_error() -> None:
    path = _write("")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="can't be read"):
        load_settings({})


def test_a_wrong_variable_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMCTL_FORMAT", "xml")
    with pytest.raises(UsageError, match="VMCTL_FORMAT"):
        load_settings({})
