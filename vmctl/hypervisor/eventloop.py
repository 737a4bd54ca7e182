"""libvirt's event loop, in one thread for the whole process.

Keepalive, streams and callbacks need it. It runs while a connection is open, no longer.
"""

from __future__ import annotations

import contextlib
import operator
import threading

import libvirt

__all__ = ["acquire", "catch_up", "release"]

_LAST_TURNS = 4
_CATCH_UP_SECONDS = 5.0

_lock = threading.Lock()
_users = 0
_registered = False
_thread: threading.Thread | None = None
_stop = threading.Event()


def acquire() -> None:
    """Run the loop for one more user. To be called before a connection is opened."""
    global _users, _registered, _thread  # noqa: PLW0603 - libvirt's loop is the process's own
    with _lock:
        if not _registered:
            # It takes what libvirt would print to stderr; the same arrives as an exception. No
            # function of Python's may: one that a signal interrupts (Ctrl-C) leaves its exception
            # to libvirt's binding, which makes a SystemError of it.
            libvirt.registerErrorHandler(operator.is_, None)
            libvirt.virEventRegisterDefaultImpl()
            _registered = True
        _users += 1
        if _thread is None:
            _stop.clear()
            _thread = threading.Thread(target=_run, name="vmctl-libvirt-events", daemon=True)
            _thread.start()


def release() -> None:
    """Give up one use; the last one ends the thread."""
    global _users, _thread  # noqa: PLW0603
    with _lock:
        _users -= 1
        if _users > 0 or _thread is None:
            return
        thread, _thread = _thread, None
        _stop.set()
        # A timer that fires at once makes the loop look at _stop.
        timer = libvirt.virEventAddTimeout(0, _tick, None)
        if thread is not threading.current_thread():
            thread.join(timeout=5)
        libvirt.virEventRemoveTimeout(timer)


def catch_up() -> None:
    """Wait until the loop has handed on what had arrived when this was called."""
    turned = threading.Event()

    def turn(number: int, _opaque: object) -> None:
        libvirt.virEventUpdateTimeout(number, -1)
        turned.set()

    # Timers fire in the order in which they were added, and that of a connection's events was added
    # when it was opened.
    timer = libvirt.virEventAddTimeout(0, turn, None)
    try:
        turned.wait(_CATCH_UP_SECONDS)
    finally:
        libvirt.virEventRemoveTimeout(timer)


def _tick(timer: int, _opaque: object) -> None:
    libvirt.virEventUpdateTimeout(timer, -1)


def _run() -> None:
    while not _stop.is_set():
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:  # pragma: no cover - poll() itself failed
            _stop.wait(0.1)
    # A connection that is closed gives its socket back in the loop, in the turns that follow.
    timer = libvirt.virEventAddTimeout(0, _again, None)
    for _ in range(_LAST_TURNS):
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()
    libvirt.virEventRemoveTimeout(timer)


def _again(_timer: int, _opaque: object) -> None:
    """Let the loop turn at once, without waiting for anything."""
