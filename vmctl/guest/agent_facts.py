"""What a guest says of itself, through its agent. It is the guest's own word, and may be anything.

The answers: https://qemu.readthedocs.io/en/latest/interop/qemu-ga-ref.html
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vmctl.errors import GuestError
from vmctl.guest.agent import Agent

__all__ = ["GuestFilesystem", "GuestInfo", "GuestUser", "filesystems", "read_info", "users"]

# What a guest says at most, of one thing; more is cut off.
_LONGEST = 1000


@dataclass(frozen=True, kw_only=True)
class GuestUser:
    """Somebody who is logged in.

    Attributes:
        name: The user.
        since: When the first of their sessions began; None when the guest doesn't say.
        domain: Of a Windows user.
    """

    name: str
    since: datetime | None = None
    domain: str = ""


@dataclass(frozen=True, kw_only=True)
class GuestFilesystem:
    """A file system that is mounted.

    Attributes:
        mountpoint: Where.
        device: The guest's name of the device.
        type: ``ext4``, ``NTFS`` ...
        size: Bytes, as far as the guest says so.
        used: Bytes of them.
    """

    mountpoint: str
    device: str
    type: str
    size: int | None = None
    used: int | None = None


@dataclass(frozen=True, kw_only=True)
class GuestInfo:
    """What the guest says of itself; what its agent can't tell is empty.

    Attributes:
        agent_version: The agent's version.
        hostname: Its host name.
        os: Its operating system, in a line for people.
        os_id: The same in a word: ``debian``, ``mswindows`` ...
        os_version: Its version.
        kernel: Its kernel's release.
        machine: Its architecture, as ``uname -m`` gives it.
        timezone: Its time zone.
        frozen: Whether its file systems are frozen: then it tells next to nothing else.
        users: Who is logged in.
        filesystems: What is mounted.
    """

    agent_version: str
    hostname: str = ""
    os: str = ""
    os_id: str = ""
    os_version: str = ""
    kernel: str = ""
    machine: str = ""
    timezone: str = ""
    frozen: bool = False
    users: tuple[GuestUser, ...] = ()
    filesystems: tuple[GuestFilesystem, ...] = ()


def read_info(agent: Agent) -> GuestInfo:
    """Ask the agent for all that it can tell.

    Raises:
        GuestUnreachableError: It does not answer.
    """
    about = _mapping(agent.ask("guest-info"))
    able = {
        str(command.get("name"))
        for command in map(_mapping, _list(about.get("supported_commands")))
        if command.get("enabled") is True
    }

    def ask(command: str) -> Any:
        return agent.ask(command) if command in able else {}

    system = _mapping(ask("guest-get-osinfo"))
    able_users, able_disks = "guest-get-users" in able, "guest-get-fsinfo" in able
    return GuestInfo(
        agent_version=_text(about.get("version")),
        hostname=_text(_mapping(ask("guest-get-host-name")).get("host-name")),
        os=_text(system.get("pretty-name") or system.get("name")),
        os_id=_text(system.get("id")),
        os_version=_text(system.get("version-id") or system.get("version")),
        kernel=_text(system.get("kernel-release")),
        machine=_text(system.get("machine")),
        timezone=_text(_mapping(ask("guest-get-timezone")).get("zone")),
        frozen=ask("guest-fsfreeze-status") == "frozen",
        users=users(agent) if able_users else (),
        filesystems=filesystems(agent) if able_disks else (),
    )


def users(agent: Agent) -> tuple[GuestUser, ...]:
    """Return who is logged in."""
    return tuple(
        GuestUser(
            name=_text(entry.get("user")),
            since=_time(entry.get("login-time")),
            domain=_text(entry.get("domain")),
        )
        for entry in map(_mapping, _list(agent.ask("guest-get-users")))
    )


def filesystems(agent: Agent) -> tuple[GuestFilesystem, ...]:
    """Return what is mounted, sorted by where."""
    found = [
        GuestFilesystem(
            mountpoint=_text(entry.get("mountpoint")),
            device=_text(entry.get("name")),
            type=_text(entry.get("type")),
            size=_number(entry.get("total-bytes")),
            used=_number(entry.get("used-bytes")),
        )
        for entry in map(_mapping, _list(agent.ask("guest-get-fsinfo")))
    ]
    return tuple(sorted(found, key=lambda entry: entry.mountpoint))


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _nonsense(value)


def _list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise _nonsense(value)


def _nonsense(value: Any) -> GuestError:
    return GuestError(
        "the agent's answer is not what it should be",
        details=repr(value)[:200],
        hint="another program may have taken its place in the guest",
    )


def _text(value: Any) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(seconds: Any) -> datetime | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None
