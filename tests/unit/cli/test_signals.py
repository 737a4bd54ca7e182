"""What a signal does that comes at a bad moment."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest

from vmctl import progress
from vmctl.cli import errors
from vmctl.cli.errors import Interrupted, announcers, catch_signals, guarded
from vmctl.errors import HostUnavailableError
from vmctl.progress import Reporter, being_undone


@pytest.fixture(autouse=True)
def said() -> Iterator[list[str]]:
    """Catch signals as the command line does; returns what it has to say of them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    lines: list[str] = []
    announcers.append(lines.append)
    catch_signals()
    try:
        yield lines
    finally:
        announcers.remove(lines.append)
        progress._waiting.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_what_is_finished_is_finished_and_then_it_is_interrupted(said: list[str]) -> None:
    reporter = Reporter("web", None)
    with reporter.phase("backup"), being_undone():
        ctrl_c()
    assert said == ["this step is finished first, then it is interrupted"]
    with pytest.raises(Interrupted), reporter.phase("download"):
        raise AssertionError("it went on")


def test_what_was_the_last_step_is_done(said: list[str]) -> None:
    with Reporter("web", None).phase("snapshot"), being_undone():
        ctrl_c()
    assert guarded(lambda: 0, debug=lambda: False) == 0
    assert len(said) == 1


def test_the_undoing_of_what_failed_goes_on(said: list[str]) -> None:
    reporter = Reporter("web", None)

    def fail() -> None:
        try:
            raise RuntimeError("it failed")
        except RuntimeError:
            with being_undone():
                ctrl_c()
            with reporter.phase("undo", must_run=True):
                pass
            raise

    with pytest.raises(RuntimeError, match="it failed"):
        fail()
    assert said == [
        "what was begun is being undone; once more stops that, and `vmctl gc` removes the rest"
    ]


def callback(inside: Callable[[], None]) -> Callable[[], None]:
    """Return what libvirt calls: what is raised in it is printed, and goes nowhere."""
    names: dict[str, object] = {"__name__": "libvirt", "inside": inside}
    exec("def _dispatchCloseCallback():\n    inside()\n", names)  # noqa: S102

    def call() -> None:
        try:
            names["_dispatchCloseCallback"]()  # type: ignore[operator]
        except BaseException as error:
            raise AssertionError("libvirt has swallowed it") from error

    return call


def test_one_that_comes_in_a_callback_of_libvirts_comes_again() -> None:
    call = callback(ctrl_c)
    call()
    with pytest.raises(Interrupted):
        threading.Event().wait(30)


def test_one_that_comes_while_an_object_is_finalized_comes_again() -> None:
    class Handle:
        def __del__(self) -> None:
            ctrl_c()

    handle = Handle()
    with warnings.catch_warnings():
        # What is raised in there is told of, and goes nowhere.
        warnings.simplefilter("error")
        del handle
    with pytest.raises(Interrupted):
        threading.Event().wait(30)


def test_one_that_comes_between_a_lock_and_its_wait_is_an_interruption(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def wait() -> None:
        condition = threading.Condition()
        with condition:
            condition.release()
            ctrl_c()

    assert guarded(wait, debug=lambda: False) == 130
    assert capsys.readouterr().err == "error: interrupted\n"

    def fail() -> None:
        raise RuntimeError("of another kind")

    assert guarded(fail, debug=lambda: False) == 1
    assert "internal error" in capsys.readouterr().err


def test_a_connection_that_ctrl_c_broke_is_an_interruption(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise HostUnavailableError("End of file while reading data", hint="see `vmctl doctor`")

    assert guarded(lost, debug=lambda: False) == 5
    monkeypatch.setattr(errors._signals, "asked", int(signal.SIGINT))
    capsys.readouterr()
    assert guarded(lost, debug=lambda: False) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
