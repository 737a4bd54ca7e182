"""What the kernel of this machine says of itself and of its processes (proc(5))."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["ProcessState", "boot_id", "state_of"]


@dataclass(frozen=True)
class ProcessState:
    """A process, as ``/proc/PID/stat`` shows it.

    Attributes:
        letter: Its state: ``R``, ``S``, ``Z`` ...
        started: Its start, in clock ticks after boot (field 22).
    """

    letter: str
    started: int

    @property
    def has_ended(self) -> bool:
        """Whether it only waits to be reaped."""
        return self.letter in {"Z", "X"}


@cache
def boot_id() -> str:
    """Return what tells this boot of this kernel from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def state_of(pid: int) -> ProcessState | None:
    """Return the state of a process; None if there is none, or none that this user may see.

    Raises:
        PermissionError: There is one, and this user may not look at it.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in brackets, may hold anything; the fields after it are plain.
    fields = text.rpartition(")")[2].split()
    return ProcessState(fields[0], int(fields[19]))
