"""What is printed when something goes wrong, the exit code, and what signals do."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from vmctl.errors import (
    GuestUnreachableError,
    HostKeyMismatchError,
    HostUnavailableError,
    UsageError,
    VmctlError,
)
from vmctl.progress import is_being_ended, is_being_undone, when_work_goes_on

__all__ = [
    "Interrupted",
    "TransportError",
    "announcers",
    "catch_signals",
    "complain",
    "guarded",
    "report",
    "say",
    "transport",
]

# sysexits has no word for it; shells report 128 + n for a process that signal n ended.
_SIGNALLED = 128
# Longer than any callback of libvirt's, or the end of one of its handles, takes.
_LOST_SECONDS = 0.1
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BUG = "this is a bug in vmctl: run it again with --debug, and report what it prints"
# The import's name to the package's, and what it is needed for.
_PACKAGES = {
    "rich": "pip install 'vmctl[cli]'",
    "libvirt": "pip install libvirt-python (it needs the packages libvirt-dev and pkg-config)",
    "libvirt_qemu": "pip install libvirt-python (it needs the packages libvirt-dev and pkg-config)",
    "pydantic": "pip install vmctl",
    "paramiko": "pip install vmctl",
    "yaml": "pip install vmctl",
    "lxml": "pip install vmctl",
    "jinja2": "pip install vmctl",
    "cryptography": "pip install vmctl",
    "pycdlib": "pip install vmctl",
}

announcers: list[Callable[[str], None]] = []
"""Who shows what a signal has to say, the last one first; without any it is written to stderr."""


class Interrupted(KeyboardInterrupt):
    """A signal asks the process to end. What is under way is undone, as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class TransportError(VmctlError):
    """`ssh` or `exec` did not get through; ssh itself ends with this code then."""

    exit_code = 255


@contextmanager
def transport() -> Iterator[None]:
    """Let what keeps a command from its guest end with 255, which no command of its own does."""
    try:
        yield
    except (GuestUnreachableError, HostKeyMismatchError) as error:
        raise TransportError(error.brief, details=error.details, hint=error.hint) from error


class _Signals:
    """What the first signal does, and the next ones."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._late = False
        self._told = False
        self._undoing = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle one; called by Python in the main thread, between any two of its steps."""
        self.asked = self.asked or number
        if _would_be_lost(frame):
            # It would be printed, and what was to be ended would go on. So it comes once more.
            again = threading.Timer(_LOST_SECONDS, _send, (number,))
            again.daemon = True
            again.start()
            return
        if is_being_ended() and not self._late and not self._undoing:
            self._late = True
            _announce("this step is finished first, then it is interrupted")
            when_work_goes_on(lambda: _send(number))
            return
        if (self._undoing or is_being_undone()) and not self._told:
            self._told = True
            _announce(
                "what was begun is being undone; once more stops that, "
                "and `vmctl gc` removes the rest"
            )
            return
        self._undoing = True
        raise Interrupted(number)


_signals = _Signals()


def _would_be_lost(frame: FrameType | None) -> bool:
    """Return whether nobody hears what is raised there.

    That is so where libvirt called Python, as it does when a connection breaks, and while an object
    is finalized, as each handle of libvirt's is when it was used.
    """
    while frame is not None:
        name = frame.f_code.co_name
        if name == "__del__" or (
            frame.f_globals.get("__name__") == "libvirt" and "_dispatch" in name
        ):
            return True
        frame = frame.f_back
    return False


def _send(number: int) -> None:
    # Only what the main thread itself is sent wakes it when it waits.
    identity = threading.main_thread().ident
    if identity is not None:
        signal.pthread_kill(identity, number)


def catch_signals() -> None:
    """Let Ctrl-C, SIGTERM and a terminal that is closed end the process in good order.

    The first signal makes whatever is under way be undone; a step that is being finished just then
    is finished first. One that comes while something is being undone says that this is going on;
    another one ends it.
    """
    global _signals  # noqa: PLW0603 - signals are the process's own
    _signals = _Signals()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What is ignored from outside (nohup) stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _signals.handle)


def _announce(text: str) -> None:
    if announcers:
        announcers[-1](text)
    else:
        # A signal may come in the middle of anything, so no stream of Python's is used.
        os.write(2, f"\n{text}\n".encode())


def say(text: str, *, bold: str = "", color: str = "") -> None:
    """Print a line on stderr, with a word before it that is drawn in colour on a terminal."""
    head = click.style(bold, fg=color or None, bold=True) + " " if bold else ""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    click.echo(head + _CONTROL.sub("", text), err=True, color=False if plain else None)


def complain(error: VmctlError) -> None:
    """Print an error: what is wrong, the details indented, and what to do."""
    say(" ".join(error.brief.split("\n")), bold="error:", color="red")
    for line in error.details.splitlines():
        say(f"  {line}")
    if error.hint:
        say(error.hint, bold="hint:", color="cyan")


def report(error: BaseException, *, debug: bool) -> int:
    """Print what an exception has to say; returns the exit code for it."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return _broken_pipe()
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        if isinstance(error, click.Abort):
            click.echo(err=True)  # it was asked, and the cursor is behind the question
        return _interrupted(error)
    known = _in_our_words(error)
    complain(known)
    return known.exit_code


def _in_our_words(error: BaseException) -> VmctlError:
    if isinstance(error, VmctlError):
        return error
    if isinstance(error, click.ClickException):
        return _usage(error)
    module = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if module in _PACKAGES:
        return VmctlError(f"the Python package {module} is not installed", hint=_PACKAGES[module])
    kind = type(error).__name__
    return VmctlError(f"internal error: {kind}: {error}".rstrip(": "), hint=_BUG)


def _interrupted(error: BaseException) -> int:
    number = error.number if isinstance(error, Interrupted) else int(signal.SIGINT)
    say(
        "interrupted" if number == signal.SIGINT else "ended by a signal",
        bold="error:",
        color="red",
    )
    return _SIGNALLED + number


def _broken_pipe() -> int:
    # Nobody reads any more: nothing more is to be written, when the interpreter ends either.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return _SIGNALLED + signal.SIGPIPE


def _usage(error: click.ClickException) -> UsageError:
    text = error.format_message().strip().removesuffix(".")
    text = text[:1].lower() + text[1:] if text[1:2].islower() else text
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path} --help`" if context is not None else "see `vmctl --help`"
    lines = text.splitlines() or ["this is no valid call"]
    return UsageError(lines[0], details="\n".join(lines[1:]), hint=hint)


def _cause_of(error: BaseException) -> BaseException:
    """Return a signal in the place of what it did to the connection, or to a lock.

    Ctrl-C on a terminal ends the ssh that a connection goes through as well. And between the moment
    at which a condition gives up its lock and that at which it begins to wait, a signal leaves the
    lock released, which the next one to release it complains of.
    """
    if _signals.asked is None:
        return error
    of_a_lock = type(error) is RuntimeError and isinstance(error.__context__, Interrupted)
    if of_a_lock or isinstance(error, HostUnavailableError):
        interrupted = Interrupted(_signals.asked)
        interrupted.__cause__ = error
        return interrupted
    return error


def guarded(call: Callable[[], Any], *, debug: Callable[[], bool]) -> int:
    """Run ``call``, and print what goes wrong; returns the exit code."""
    try:
        result = call()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - this is where all of them end
        return report(_cause_of(error), debug=debug())
    return result if isinstance(result, int) else 0
