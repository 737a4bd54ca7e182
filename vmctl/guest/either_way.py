"""Copying by SFTP, or by the agent where there is no SSH."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import paramiko

from vmctl.guest import agent_files, copying
from vmctl.guest.agent import Agent
from vmctl.guest.copying import CopiedFiles
from vmctl.guest.link import Link
from vmctl.guest.running import Via, either_way
from vmctl.guest.sftp import opened
from vmctl.progress import Phase

__all__ = ["receive", "send"]


def send(
    link: Link,
    agent: Agent,
    source: Path | BinaryIO,
    target: str,
    *,
    recursive: bool,
    via: Via,
    phase: Phase,
) -> CopiedFiles:
    """Copy into a guest; see `VM.copy_to`."""
    if isinstance(source, Path):
        copying.check_source(source, recursive=recursive)

    def by_ssh(channel: paramiko.Channel) -> CopiedFiles:
        with opened(channel, agent.machine) as remote:
            return copying.send(remote, source, target, recursive=recursive, phase=phase)

    return either_way(
        agent,
        via,
        reach=link.channel,
        by_ssh=by_ssh,
        by_agent=lambda: agent_files.send(agent, source, target, phase=phase),
    )


def receive(
    link: Link,
    agent: Agent,
    source: str,
    target: Path | BinaryIO,
    *,
    recursive: bool,
    via: Via,
    phase: Phase,
) -> CopiedFiles:
    """Copy out of a guest; see `VM.copy_from`."""

    def by_ssh(channel: paramiko.Channel) -> CopiedFiles:
        with opened(channel, agent.machine) as remote:
            return copying.receive(remote, source, target, recursive=recursive, phase=phase)

    return either_way(
        agent,
        via,
        reach=link.channel,
        by_ssh=by_ssh,
        by_agent=lambda: agent_files.receive(agent, source, target, phase=phase),
    )
