"""Who is at work on a machine: what a dead client left is told from work in progress by it."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vmctl.hypervisor.procfs import boot_id, state_of

__all__ = ["Claim", "claimed", "own_name"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One process, on one boot of one kernel, until some time.

    Attributes:
        client: The client's host name, for people.
        boot_id: The kernel's ``/proc/sys/kernel/random/boot_id``.
        pid_namespace: The PID namespace that ``pid`` counts in.
        pid: The process.
        started: Its start, in clock ticks after boot (field 22 of ``/proc/PID/stat``).
        token: Tells this piece of work from others of the same process.
        expires: Seconds since the epoch after which the work is over, however it ended.
    """

    client: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: int
    token: str
    expires: int

    def is_abandoned(self, now: float | None = None) -> bool:
        """Return whether nobody is at work under this claim any more.

        A client on this machine is looked up; of one elsewhere only the time can tell.
        """
        here = _self()
        if (self.boot_id, self.pid_namespace) == (here.boot_id, here.pid_namespace):
            if self.pid == os.getpid() and self.started == _start_of(self.pid):
                return self.token not in _under_way
            # A process of somebody else's may be hidden (proc(5), hidepid): then only time tells.
            with suppress(PermissionError):
                return _start_of(self.pid) != self.started
        return (time.time() if now is None else now) > self.expires


# What this very process is at work on. A long-lived one may have given up on a piece of work, with
# the host out of reach; then the claim is in the record still, and nobody is behind it.
_under_way: set[str] = set()


@contextmanager
def claimed(seconds: float) -> Iterator[Claim]:
    """Give this process's claim to be at work for at most ``seconds``, while the block runs."""
    here = _self()
    claim = Claim(
        client=here.client,
        boot_id=here.boot_id,
        pid_namespace=here.pid_namespace,
        pid=os.getpid(),
        started=_start_of(os.getpid()) or 0,
        token=secrets.token_hex(8),
        expires=int(time.time() + seconds) + 1,
    )
    _under_way.add(claim.token)
    try:
        yield claim
    finally:
        _under_way.discard(claim.token)


def own_name() -> str:
    """Return who this process works for, ``USER@CLIENT``."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a user without a name, as in containers
        user = str(os.geteuid())
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class _Here:
    client: str
    boot_id: str
    pid_namespace: str


@lru_cache(maxsize=1)
def _self() -> _Here:
    return _Here(
        client=socket.gethostname(),
        boot_id=boot_id(),
        pid_namespace=str(Path("/proc/self/ns/pid").readlink()),
    )


def _start_of(pid: int) -> int | None:
    """Return when a process began, None when it has ended.

    Raises:
        PermissionError: This user may not see it.
    """
    state = state_of(pid)
    if state is None:
        if _is_hidden(pid):
            raise PermissionError(f"process {pid} is hidden")
        return None
    return None if state.has_ended else state.started


def _is_hidden(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False
