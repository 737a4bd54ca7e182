"""Ending a private host and removing what is left of it, whether it still runs or crashed."""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path

from vmctl.errors import RollbackError
from vmctl.hypervisor.private.layout import Layout
from vmctl.hypervisor.private.process import end_marked_processes
from vmctl.hypervisor.private.record import Record

__all__ = ["MARK", "end_processes", "remove_files", "short_link"]

# The variable by which a session's processes are found again when no namespace holds them.
# libvirt passes it on to QEMU, and its value, a folder of this host's alone, is nobody else's.
MARK = "HOME"
_PATIENCE = 20.0


def short_link(short_dir: str) -> Path:
    """Return the link in a session's short folder that leads to its ``run``."""
    return Path(short_dir, "s")


def end_processes(layout: Layout, record: Record) -> None:
    """End every process of the host.

    Raises:
        RollbackError: One of them doesn't end.
    """
    if record.supervisor is not None and not record.supervisor.signal(
        signal.SIGTERM, wait=_PATIENCE
    ):
        record.supervisor.signal(signal.SIGKILL, wait=_PATIENCE)
    # As a rule it has ended with its supervisor. All others in its PID namespace end before it.
    if record.init is not None and not record.init.signal(signal.SIGKILL, wait=_PATIENCE):
        raise RollbackError(
            f"private host {layout.name} does not end",
            left=[f"process {record.init.pid}"],
            hint="a process that hangs in the kernel ends only with the machine; see ps -o wchan",
        )
    if record.kind == "session":
        end_marked_processes(MARK, str(layout.home))


def remove_files(layout: Layout, record: Record | None) -> None:
    """Remove the host's files. Its processes must have ended, and its lock must be held.

    Raises:
        RollbackError: Something could not be removed.
    """
    if record is not None and record.short_dir is not None:
        _remove_short_dir(record.short_dir, layout)
    try:
        layout.remove()
    except OSError as error:
        raise RollbackError(
            f"the state of private host {layout.name} can't be removed: {error.strerror}",
            left=[str(error.filename or layout.state_dir)],
            hint="remove what is left by hand, or mend the cause and stop the host again",
        ) from error


def _remove_short_dir(short_dir: str, layout: Layout) -> None:
    link = short_link(short_dir)
    with contextlib.suppress(OSError):
        # Only what this host made: somebody else may use the name by now.
        if link.readlink() == layout.run:
            shutil.rmtree(short_dir)
