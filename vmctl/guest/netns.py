"""A socket made in another network namespace of this machine.

A network namespace belongs to a thread, and a socket to the namespace it was made in. So a thread
of its own enters the namespace, makes the connection, and ends; the rest of the process stays
where it is.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from pathlib import Path

__all__ = ["connect_in"]

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
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def enter_and_connect() -> None:
        try:
            with namespace.open("rb") as handle:
                _setns(handle.fileno())
            made.append(socket.create_connection((address, port), timeout=timeout))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter_and_connect, name="vmctl-netns")
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
