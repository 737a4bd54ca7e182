"""Processes, known by more than a number.

A pid is used again sooner or later, and every boot starts counting afresh. So a process is
remembered with its start time (field 22 of ``/proc/PID/stat``) and the boot it belongs to, and is
signalled through a pidfd, which can't come to mean another process between the check and the kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from vmctl.hypervisor.procfs import boot_id, state_of

__all__ = ["ProcessIdentity", "end_marked_processes", "marked_processes"]


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one boot of this machine.

    Attributes:
        pid: Its number, as seen from the PID namespace of whoever recorded it.
        started: Its start time in clock ticks since the boot.
        boot: The kernel's boot id.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Return the identity of the process that is ``pid`` now.

        Raises:
            ProcessLookupError: There is none.
        """
        state = state_of(pid)
        if state is None:
            raise ProcessLookupError(pid)
        return cls(pid, state.started, boot_id())

    @property
    def alive(self) -> bool:
        """Whether it still runs. One that only waits to be reaped does not."""
        if self.boot != boot_id():
            return False
        state = state_of(self.pid)
        return state is not None and state.started == self.started and not state.has_ended

    def signal(self, number: int, *, wait: float = 0) -> bool:
        """Send it a signal, and wait up to ``wait`` seconds for its end.

        Returns:
            Whether it has ended.
        """
        with contextlib.ExitStack() as stack:
            try:
                pidfd = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return True
            stack.callback(os.close, pidfd)
            if not self.alive:  # looked at after opening: from here on the pidfd can only mean it
                return True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            return bool(poll.poll(wait * 1000))


def marked_processes(variable: str, value: str) -> Iterator[ProcessIdentity]:
    """Yield the processes whose environment has exactly ``variable=value``.

    Processes whose environment this user may not read are left out.
    """
    wanted = f"{variable}={value}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            identity = ProcessIdentity.of(int(entry.name))
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0") and identity.alive:
            yield identity


def end_marked_processes(variable: str, value: str) -> None:
    """Kill every process with ``variable=value``, and those they start meanwhile."""
    while found := list(marked_processes(variable, value)):
        for identity in found:
            if not identity.signal(signal.SIGKILL, wait=10):
                return  # in the kernel's hands (state D); nothing more can be done from here
