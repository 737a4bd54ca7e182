"""The few Linux system calls that Python 3.11 has no function for.

Numbers and meanings are those of ``mount(2)``, ``umount2(2)``, ``unshare(2)``, ``prctl(2)`` and
``netdevice(7)``. Every function raises :class:`OSError` with the call and its subject in it.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import socket
import struct

__all__ = [
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_REC",
    "become_subreaper",
    "die_with_parent",
    "loopback_up",
    "mount",
    "unmount",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

MNT_DETACH = 0x2

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, fstype: str | None, flags: int = 0, options: str = "") -> None:
    """Mount ``source`` on ``target``; ``fstype`` is None for a bind or a change of propagation."""
    result = _libc().mount(
        source.encode(),
        target.encode(),
        fstype.encode() if fstype else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    _check(result, f"mount {source} on {target}")


def unmount(target: str, flags: int = 0) -> None:
    """Unmount what is on ``target``."""
    _check(_libc().umount2(target.encode(), flags), f"unmount {target}")


def unshare(flags: int) -> None:
    """Give this process new namespaces; ``CLONE_NEWPID`` concerns only its children."""
    _check(_libc().unshare(flags), "unshare")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process ``signal_number`` when the thread that made it ends."""
    result = _libc().prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0)
    _check(result, "prctl(PR_SET_PDEATHSIG)")


def become_subreaper() -> None:
    """Become the parent of every orphan among this process's descendants."""
    result = _libc().prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    _check(result, "prctl(PR_SET_CHILD_SUBREAPER)")


def loopback_up() -> None:
    """Bring ``lo`` up in the network namespace of this process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
