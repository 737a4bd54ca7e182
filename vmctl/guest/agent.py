"""The QEMU guest agent: a way in that needs no network.

Commands and their answers: https://qemu.readthedocs.io/en/latest/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

from vmctl.errors import GuestUnreachableError, WaitTimeoutError
from vmctl.guest.command import CompletedCommand, shell_line
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import Signal

__all__ = ["Agent"]


class Agent:
    """The agent of one machine.

    Args:
        domain: The machine.
        timeout: Seconds for each answer.
    """

    def __init__(self, domain: Domain, *, timeout: int = 10) -> None:
        self._domain = domain
        self._timeout = timeout

    def answers(self) -> bool:
        """Return whether it answers."""
        try:
            self._domain.agent("guest-ping", timeout=min(self._timeout, 3))
        except GuestUnreachableError:
            return False
        return True

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
    ) -> CompletedCommand:
        """Run a command to its end, as the user the agent runs as (root).

        Raises:
            GuestUnreachableError: No agent answers, or it may not run commands.
            WaitTimeoutError: The command did not end in time.
        """
        line = shell_line(command)
        argument: dict[str, Any] = {
            "path": "/bin/sh",
            "arg": ["-c", line],
            "capture-output": True,
        }
        if stdin:
            argument["input-data"] = base64.b64encode(stdin).decode("ascii")
        pid = self._domain.agent("guest-exec", argument, timeout=self._timeout)["pid"]
        deadline = time.monotonic() + (timeout if timeout is not None else 86400.0)
        done = Signal().wait_for(lambda: self._ended(pid), deadline=deadline, recheck=0.1)
        if done is None:
            raise WaitTimeoutError(
                f"the command {line!r} in '{self._domain.name}' did not end within {timeout:g} s",
                phase="command",
                hint="it runs on in the guest; give it more time, or look at what it waits for",
            )
        return CompletedCommand(
            command=line,
            exit_status=done["exitcode"] if "exitcode" in done else 128 + done.get("signal", 0),
            stdout=_decoded(done.get("out-data", "")),
            stderr=_decoded(done.get("err-data", "")),
            via="agent",
        )

    def _ended(self, pid: int) -> dict[str, Any] | None:
        status = self._domain.agent("guest-exec-status", {"pid": pid}, timeout=self._timeout)
        return status if status["exited"] else None


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode("utf-8", "replace")
