"""What the library warns of reaches people, once, when the work is done."""

from __future__ import annotations

import logging

import pytest

from vmctl.cli.context import App

_log = logging.getLogger("vmctl.imaging.somewhere")


@pytest.mark.parametrize("fails", [False, True])
def test_warnings_are_told_after_the_work(capsys: pytest.CaptureFixture[str], fails: bool) -> None:
    try:
        with App().progress():
            _log.warning("it was not %s", "verified")
            _log.warning("it was not verified")
            _log.info("nobody asked")
            assert capsys.readouterr().err == ""
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert capsys.readouterr().err == "warning: it was not verified\n"


def test_a_quiet_run_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with App(quiet=True).progress():
        _log.warning("it was not verified")
    assert capsys.readouterr().err == ""
    assert logging.getLogger("vmctl").handlers == []
