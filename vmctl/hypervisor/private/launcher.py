"""The starting side of a supervisor: it is launched here, and released once its host is ready."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from vmctl.errors import HostUnavailableError, PermissionDeniedError
from vmctl.hypervisor.private.layout import Layout
from vmctl.hypervisor.private.process import ProcessIdentity

__all__ = ["CONTAINMENT_VARIABLE", "RELEASE", "TETHER", "Launch"]

# What the starter writes once the host is ready: that it may live on without its starter, or that
# it may not. A starter that closes the line without a word has failed, and the host ends.
RELEASE = b"r"
TETHER = b"t"

# "subreaper" keeps a session out of namespaces even where the kernel has them for users.
CONTAINMENT_VARIABLE = "VMCTL_PRIVATE_CONTAINMENT"

_END_SECONDS = 10.0
_IMPORT_ROOT = Path(__file__).resolve().parents[3]


class Launch:
    """A supervisor that was just launched, and its host's first process.

    A context manager: leaving it closes the line to the supervisor.
    """

    def __init__(self, layout: Layout, deadline: float) -> None:
        self._layout = layout
        report, report_end = os.pipe2(os.O_CLOEXEC)
        control_end, self._control = os.pipe2(os.O_CLOEXEC)
        # A pidfd, not a pipe, tells the supervisor of this process's end: a pipe would stay open
        # in whatever this process forks.
        owner = os.pidfd_open(os.getpid())
        try:
            try:
                self._run_supervisor(report_end, control_end, owner)
            finally:
                for descriptor in (report_end, control_end, owner):
                    os.close(descriptor)
            self.supervisor, self.init = self._read_report(report, deadline)
        except BaseException:
            os.close(self._control)
            _wait_for_end_of(report)
            raise
        finally:
            os.close(report)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._control)

    def leave_alone(self, *, tether: bool) -> None:
        """Let the host live, on its own or for as long as this process does."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._control, TETHER if tether else RELEASE)

    def _run_supervisor(self, *descriptors: int) -> None:
        path = os.pathsep.join(filter(None, (str(_IMPORT_ROOT), os.environ.get("PYTHONPATH"))))
        with self._layout.log("supervisor").open("ab") as log:
            subprocess.run(
                [
                    *(sys.executable, "-P", "-m", "vmctl.hypervisor.private.supervisor"),
                    str(self._layout.state_dir),
                    *map(str, descriptors),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                start_new_session=True,
                cwd="/",  # so that it keeps no folder of the caller's busy
                env={**os.environ, "PYTHONPATH": path},
                check=False,  # what went wrong is in the report, or in the log
            )

    def _read_report(self, report: int, deadline: float) -> tuple[ProcessIdentity, ProcessIdentity]:
        """Read until both processes have said that they are there."""
        message: dict[str, Any] = {}
        data = b""
        while not ("init" in message and ("confined" in message or "error" in message)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([report], [], [], left)[0]:
                message["error"] = "it took too long to set itself up"
                break
            chunk = os.read(report, 4096)
            if not chunk:
                break
            *lines, data = (data + chunk).split(b"\n")
            for line in lines:
                message |= json.loads(line)
        if "confined" not in message or "error" in message:
            raise self._failure(message.get("error", "its supervisor ended"))
        try:
            return ProcessIdentity.of(message["supervisor"]), ProcessIdentity.of(message["init"])
        except ProcessLookupError:
            raise self._failure("its first process ended") from None

    def _failure(self, reason: str) -> HostUnavailableError:
        brief = f"private host {self._layout.name} can't be started: {reason}"
        if os.geteuid() == 0 and "Operation not permitted" in reason:
            return PermissionDeniedError(
                brief,
                hint="root needs CAP_SYS_ADMIN to make namespaces; most containers lack it",
            )
        return HostUnavailableError(
            brief, hint="the end of its logs is above; see also `vmctl doctor`"
        )


def _wait_for_end_of(report: int) -> None:
    """Wait until the supervisor, which has failed or was let down, has ended its host."""
    deadline = time.monotonic() + _END_SECONDS
    while (left := deadline - time.monotonic()) > 0 and select.select([report], [], [], left)[0]:
        if not os.read(report, 4096):
            return
