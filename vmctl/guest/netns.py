"""A socket, or a process, made in another network namespace of this machine.

A network namespace belongs to a thread, and a socket to the namespace it was made in. So a thread
of its own enters the namespace, makes the connection or starts the process, and ends; the rest of
the process stays where it is.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["connect_in", "do_in"]

T = TypeVar("T")

# <sched.h>
_CLONE_NEWNET = 0x40000000


def connect_in(namespace: Path, address: str, port: int, timeout: float) -> socket.socket:
    """Connect by TCP from inside a network namespace.

    Args:
        namespace: Its file, ``/proc/PID/ns/net``.
        address: Where to.
        port: Which port.
        timeout: Seconds for the connection to be made.

    Raises:
        OSError: As `socket.create_connection`, or the namespace can't be entered.
    """
    return do_in(namespace, lambda: socket.create_connection((address, port), timeout=timeout))


def do_in(namespace: Path, act: Callable[[], T]) -> T:
    """Do something inside a network namespace: make a socket, or start a process.

    Args:
        namespace: Its file, ``/proc/PID/ns/net``.
        act: Does it, in a thread of its own.

    Raises:
        OSError: The namespace can't be entered, or whatever else ``act`` raises.
    """
    made: list[T] = []
    failed: list[Exception] = []

    def enter_and_act() -> None:
        try:
            with namespace.open("rb") as handle:
                _setns(handle.fileno())
            made.append(act())
        except Exception as error:  # noqa: BLE001 - it is raised again, in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=enter_and_act, name="vmctl-netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _setns(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"can't enter the network namespace: {os.strerror(number)}")
