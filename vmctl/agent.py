"""A machine's guest agent, for what needs no network: files, accounts, time, frozen disks."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

from vmctl.errors import (
    GuestError,
    GuestUnreachableError,
    NotFoundError,
    UsageError,
    VmctlError,
    WrongStateError,
)
from vmctl.guest import agent_facts
from vmctl.guest.agent import Agent
from vmctl.guest.agent_facts import GuestFilesystem, GuestInfo, GuestUser
from vmctl.guest.command import CompletedCommand
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.metadata import Record
from vmctl.progress import being_undone

__all__ = ["GuestAgent", "thaw_for_sure"]

_AWAKE_SECONDS = 5
# What is not written yet is written before file systems stand still.
_FREEZE_SECONDS = 60
_THAW_SECONDS = 45.0
_COMMAND_SECONDS = 60.0
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\ -]{0,255}\$?")
# As it stands in /etc/passwd of a Unix guest: nothing that a shell could take for more.
_UNIX_USER = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,63}\$?", re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def thaw_for_sure(domain: Domain) -> None:
    """Thaw a guest's file systems, and bear a libvirtd that restarts and an agent that is slow.

    Raises:
        GuestUnreachableError: It did not work in all that time.
    """
    agent = Agent(domain)
    last: list[VmctlError] = []

    def attempt() -> bool | None:
        try:
            agent.ask("guest-fsfreeze-thaw")
        except WrongStateError:
            # It is off: there is nothing frozen any more. A paused one is frozen still.
            return None if domain.is_active() else True
        except VmctlError as error:
            last.append(error)
            return None
        return True

    with being_undone():
        if Signal().wait_for(attempt, deadline=time.monotonic() + _THAW_SECONDS):
            return
    raise GuestUnreachableError(
        f"the file systems of '{domain.name}' may be frozen still",
        details=str(last[-1]) if last else "the machine is paused",
        hint=f"when its agent answers again: `vmctl agent thaw {domain.name}`",
    )


class GuestAgent:
    """The agent of one machine, as `VM.agent` gives it.

    Every call ends within seconds when the agent hangs, with a `GuestUnreachableError`; a later
    one works again when the agent does.
    """

    def __init__(self, domain: Domain, *, record: Callable[[], Record]) -> None:
        self._domain = domain
        self._record = record
        self._agent = Agent(domain)

    def ping(self) -> float:
        """Return the seconds that it takes to answer.

        Raises:
            GuestUnreachableError: It does not answer.
            WrongStateError: The machine does not run.
        """
        began = time.monotonic()
        self._agent.ask("guest-ping", timeout=_AWAKE_SECONDS)
        return time.monotonic() - began

    def info(self) -> GuestInfo:
        """Return what the guest says of itself."""
        return agent_facts.read_info(self._agent)

    def users(self) -> tuple[GuestUser, ...]:
        """Return who is logged in."""
        return agent_facts.users(self._agent)

    def filesystems(self) -> tuple[GuestFilesystem, ...]:
        """Return what is mounted, sorted by where."""
        return agent_facts.filesystems(self._agent)

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | BinaryIO = b"",
        timeout: float | None = None,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> CompletedCommand:
        """Run a command as root; as `VM.run` with ``via="agent"``."""
        done = self._agent.run(command, stdin=stdin, timeout=timeout, env=env, cwd=cwd, user=user)
        return done.check() if check else done

    # -- files ------------------------------------------------------------------------------------

    def read_file(self, path: str) -> bytes:
        """Return what is in a file of the guest; `VM.copy_from` is for large ones.

        Raises:
            GuestError: There is no such file, or it can't be read.
        """
        return self._agent.read(path)

    def write_file(self, path: str, content: bytes) -> None:
        """Write a file of the guest anew, as root; one that is there keeps its owner and mode.

        `VM.copy_to` puts one in place when it is whole; this does not.

        Raises:
            ConflictError: vmctl did not make the machine.
            GuestError: It can't be written.
        """
        self._record()
        self._agent.store(path, (content,))

    # -- frozen file systems ----------------------------------------------------------------------

    def is_frozen(self) -> bool:
        """Return whether file systems are frozen."""
        return self._agent.is_frozen()

    def freeze(self, mountpoints: Sequence[str] | None = None) -> int:
        """Freeze file systems: what was written is on the disks, and nothing more comes.

        They stay so until `thaw`, whoever calls it: if this process is killed as well. All that
        writes in the guest stands still meanwhile. Rather use `frozen`.

        Args:
            mountpoints: Which ones; None for all.

        Returns:
            How many were frozen; 0 when they were already.

        Raises:
            ConflictError: vmctl did not make the machine.
            GuestUnreachableError: The agent does not answer.
            GuestError: It can't freeze, and nothing is frozen.
        """
        self._record()
        if self.is_frozen():
            return 0
        return self._freeze(mountpoints)

    def _freeze(self, mountpoints: Sequence[str] | None) -> int:
        command = "guest-fsfreeze-freeze"
        arguments: dict[str, Any] = {}
        if mountpoints is not None:
            command, arguments = f"{command}-list", {"mountpoints": list(mountpoints)}
        return int(self._agent.ask(command, arguments, timeout=_FREEZE_SECONDS))

    def thaw(self) -> int:
        """Let frozen file systems go on; those that are not frozen are left so.

        Returns:
            How many were thawed.

        Raises:
            ConflictError: vmctl did not make the machine.
            GuestUnreachableError: The agent does not answer.
        """
        self._record()
        return int(self._agent.ask("guest-fsfreeze-thaw"))

    @contextmanager
    def frozen(self, mountpoints: Sequence[str] | None = None) -> Iterator[int]:
        """Freeze file systems while a ``with`` block runs; they are thawed whatever happens in it.

        Should this process be killed they stay frozen: then `thaw` or ``vmctl agent thaw`` lets
        them go on.

        Args:
            mountpoints: Which ones; None for all.

        Raises:
            ConflictError: vmctl did not make the machine.
            WrongStateError: They are frozen already, by somebody else.
            GuestUnreachableError: The agent does not answer. When that is at the end of the block
                they may be frozen still, and the error says so.
        """
        self._record()
        if self.is_frozen():
            raise WrongStateError(
                f"the file systems of '{self._domain.name}' are frozen already",
                state="frozen",
                hint="somebody else may be at work; if not: "
                f"`vmctl agent thaw {self._domain.name}`",
            )
        try:
            # An answer that came too late may have been "done".
            yield self._freeze(mountpoints)
        except BaseException as error:
            try:
                self._thaw_for_sure()
            except VmctlError as failure:
                error.add_note(f"{failure.brief}; {failure.hint}")
            raise
        self._thaw_for_sure()

    def _thaw_for_sure(self) -> None:
        thaw_for_sure(self._domain)

    # -- accounts ---------------------------------------------------------------------------------

    def set_password(self, user: str, password: str, *, crypted: bool = False) -> None:
        """Set a user's password. It stands in no log, no record and on no command line.

        Args:
            user: The user in the guest.
            password: The password; or what crypt(5) makes of it.
            crypted: Whether it is crypted already.

        Raises:
            ConflictError: vmctl did not make the machine.
            NotFoundError: There is no such user.
            GuestError: The guest refuses it.
            UsageError: It can't be a password.
        """
        self._record()
        _check_user(user)
        if not password or any(char in password for char in "\n\r\0"):
            raise UsageError(
                "a password is one line, and not empty", hint="leave out what ends the line"
            )
        encoded = base64.b64encode(password.encode()).decode("ascii")
        argument = {"username": user, "password": encoded, "crypted": crypted}
        with self._for_user(user, "set the password"):
            self._agent.ask("guest-set-user-password", argument)

    def authorized_keys(self, user: str) -> tuple[str, ...]:
        """Return the public keys by which a user can log in over SSH.

        Raises:
            NotFoundError: There is no such user.
        """
        _check_user(user)
        try:
            with self._for_user(user, "read the keys"):
                found = self._agent.ask("guest-ssh-get-authorized-keys", {"username": user})
        except NotFoundError:
            raise
        except GuestError as error:
            if isinstance(error, GuestUnreachableError) or self._has_keys(user):
                raise
            return ()
        return tuple(str(key) for key in found["keys"])

    def add_authorized_keys(self, user: str, keys: Sequence[str]) -> None:
        """Let a user log in by more public keys; those that are there stay, and are not doubled.

        Args:
            user: The user in the guest.
            keys: Public keys, a line each: ``ssh-ed25519 AAAA... comment``.

        Raises:
            ConflictError: vmctl did not make the machine.
            NotFoundError: There is no such user.
            UsageError: One is no key.
        """
        self._change_keys("guest-ssh-add-authorized-keys", user, keys)

    def remove_authorized_keys(self, user: str, keys: Sequence[str]) -> None:
        """Take public keys away from a user; those that are not there are no error.

        Raises:
            ConflictError: vmctl did not make the machine.
            NotFoundError: There is no such user.
            UsageError: One is no key.
        """
        self._change_keys("guest-ssh-remove-authorized-keys", user, keys)

    def _change_keys(self, command: str, user: str, keys: Sequence[str]) -> None:
        self._record()
        _check_user(user)
        lines = [key.strip() for key in ([keys] if isinstance(keys, str) else keys)]
        for line in lines:
            if len(line.split()) < 2 or "\n" in line or line.startswith(("#", "-----")):
                raise UsageError(
                    f"{line[:40]!r} is no public key",
                    hint="give lines as they stand in a .pub file: ssh-ed25519 AAAA... comment",
                )
        with self._for_user(user, "change the keys"):
            self._agent.ask(command, {"username": user, "keys": lines})

    @contextmanager
    def _for_user(self, user: str, doing: str) -> Iterator[None]:
        """Find out why it was refused: the agent's own words have no code."""
        try:
            yield
        except GuestUnreachableError:
            raise
        except GuestError as error:
            self._refuse_frozen(doing)
            if self._succeeds(["id", "-u", "--", user]) is False:
                raise NotFoundError(
                    f"there is no user '{user}' in '{self._domain.name}'",
                    hint="users come with the image, or from `cloud_init.users`",
                ) from error
            raise GuestError(
                f"the agent of '{self._domain.name}' could not {doing} of '{user}'",
                details=error.details,
                hint=error.hint,
            ) from error

    def _refuse_frozen(self, doing: str) -> None:
        if self.is_frozen():
            raise WrongStateError(
                f"could not {doing}: the file systems of '{self._domain.name}' are frozen",
                state="frozen",
                hint=f"`vmctl agent thaw {self._domain.name}` lets them go on",
            )

    def _has_keys(self, user: str) -> bool:
        # The tilde is the shell's; the name can't be anything else to it.
        return bool(
            _UNIX_USER.fullmatch(user)
            and self._succeeds(["sh", "-c", f"test -e ~{user}/.ssh/authorized_keys"])
        )

    def _succeeds(self, words: list[str]) -> bool | None:
        try:
            return self._agent.run(words, timeout=_COMMAND_SECONDS).exit_status == 0
        except GuestError:
            # It may not run commands; then what it said has to do.
            return None

    # -- time -------------------------------------------------------------------------------------

    def time(self) -> datetime:
        """Return what the guest takes for the time, in UTC."""
        nanoseconds = int(self._agent.ask("guest-get-time"))
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)

    def set_time(self, when: datetime | None = None) -> None:
        """Set the guest's clock, as after a long pause.

        Args:
            when: The time, with its time zone; None for this machine's.

        Raises:
            ConflictError: vmctl did not make the machine.
            UsageError: It has no time zone.
            WrongStateError: Its file systems are frozen.
        """
        self._record()
        wanted = when or datetime.now(UTC)
        if wanted.tzinfo is None:
            raise UsageError(
                f"{wanted} has no time zone", hint="use datetime.now(timezone.utc) and the like"
            )
        nanoseconds = (wanted - _EPOCH) // timedelta(microseconds=1) * 1000
        try:
            self._agent.ask("guest-set-time", {"time": nanoseconds})
        except GuestUnreachableError:
            raise
        except GuestError:
            self._refuse_frozen("set the time")
            raise


def _check_user(user: str) -> None:
    if not _USER.fullmatch(user):
        raise UsageError(
            f"{user[:80]!r} is no user's name", hint="give the name as the guest has it"
        )
