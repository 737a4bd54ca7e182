"""A command in a guest: by SSH, or by the agent where SSH can't be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, Literal, TypeVar

import paramiko

from vmctl.errors import GuestUnreachableError, VmctlError
from vmctl.guest.agent import Agent
from vmctl.guest.command import CompletedCommand, shell_line
from vmctl.guest.link import Link
from vmctl.guest.ssh import run_in
from vmctl.guest.surroundings import surround
from vmctl.guest.watch import ended_with

__all__ = ["Via", "either_way", "run"]

T = TypeVar("T")
C = TypeVar("C")

Via = Literal["ssh", "agent"] | None


def either_way(
    agent: Agent,
    via: Via,
    *,
    reach: Callable[[], C],
    by_ssh: Callable[[C], T],
    by_agent: Callable[[], T],
) -> T:
    """Do something by SSH, or by the agent where there is no SSH and the agent answers.

    Args:
        agent: The guest's agent.
        via: The only way to try; None for both.
        reach: Opens what ``by_ssh`` needs; when that fails nothing has happened yet.
        by_ssh: Does it by SSH.
        by_agent: Does it by the agent.

    Raises:
        GuestUnreachableError: Neither answers.
    """
    if via == "agent":
        return by_agent()
    try:
        opened = reach()
    except GuestUnreachableError as error:
        if via == "ssh":
            raise
        if not agent.answers():
            raise GuestUnreachableError(
                error.brief,
                details=f"{error.details}\nits agent does not answer either".strip(),
                hint=error.hint,
            ) from error
        return _instead(error, by_agent)
    return by_ssh(opened)


def _instead(unreachable: GuestUnreachableError, by_agent: Callable[[], T]) -> T:
    """Do it by the agent; should that fail, say why it was the agent's to do."""
    try:
        return by_agent()
    except VmctlError as error:
        parts = (error.details, f"it was left to the agent: {unreachable}")
        error.details = "\n".join(filter(None, parts))
        raise


def run(
    link: Link,
    agent: Agent,
    command: str | Sequence[str],
    *,
    via: Via,
    stdin: bytes | BinaryIO,
    timeout: float | None,
    on_stdout: Callable[[bytes], None] | None,
    on_stderr: Callable[[bytes], None] | None,
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
) -> CompletedCommand:
    """Run a command in the guest; see `VM.run`."""
    line = shell_line(command)

    wrapped, preamble = surround(line, env=env, cwd=cwd, user=user)

    def by_ssh(channel: paramiko.Channel) -> CompletedCommand:
        with ended_with(agent.domain, channel):
            return run_in(
                channel,
                wrapped,
                named=line,
                machine=agent.machine,
                stdin=stdin,
                preamble=preamble,
                timeout=timeout,
                on_stdout=on_stdout,
                on_stderr=on_stderr,
            )

    def by_agent() -> CompletedCommand:
        return agent.run(
            line,
            stdin=stdin,
            timeout=timeout,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            env=env,
            cwd=cwd,
            user=user,
        )

    return either_way(agent, via, reach=link.channel, by_ssh=by_ssh, by_agent=by_agent)
