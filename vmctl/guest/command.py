"""A command that ran in a guest."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vmctl.errors import CommandFailedError, UsageError

__all__ = ["CompletedCommand", "shell_line"]


@dataclass(frozen=True, kw_only=True)
class CompletedCommand:
    """What came out of it.

    Attributes:
        command: The line that the guest's shell was given.
        exit_status: Its status; 128 + n when signal n ended it.
        stdout: What it wrote, decoded as UTF-8 with replacement characters.
        stderr: The same.
        via: The way it went.
    """

    command: str
    exit_status: int
    stdout: str
    stderr: str
    via: Literal["ssh", "agent"]

    def check(self) -> CompletedCommand:
        """Return itself, or raise when the status is not 0.

        Raises:
            CommandFailedError: With the status, and the end of what it wrote.
        """
        if self.exit_status == 0:
            return self
        said = (self.stderr.strip() or self.stdout.strip()).splitlines()[-20:]
        raise CommandFailedError(
            f"the command {self.command!r} ended with status {self.exit_status}",
            exit_status=self.exit_status,
            details="\n".join(said),
            hint="what it wrote last is above; run it by hand: `vmctl ssh`",
        )


def shell_line(command: str | Sequence[str]) -> str:
    """Return the line for a POSIX shell: a list is quoted word by word, a string stays as it is.

    Raises:
        UsageError: There is no command.
    """
    line = command if isinstance(command, str) else shlex.join(command)
    if not line:
        raise UsageError(
            "there is no command to run", hint="give the command as a line or as a list of words"
        )
    return line
