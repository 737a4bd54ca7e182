"""Reaching inside a machine: commands, files, ports. What `VM` can do with its guest.

What speaks to guests is imported by the verb that does so: paramiko takes its time to load.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vmctl.errors import GuestUnreachableError, VmctlError, WrongStateError
from vmctl.hypervisor.domains import Domain, State
from vmctl.progress import Reporter

if TYPE_CHECKING:
    import paramiko

    from vmctl.agent import GuestAgent
    from vmctl.guest import running
    from vmctl.guest.command import CompletedCommand
    from vmctl.guest.copying import CopiedFiles
    from vmctl.guest.link import Link
    from vmctl.guest.ssh import SSHSession
    from vmctl.host import Host
    from vmctl.hypervisor.metadata import Record
    from vmctl.progress import ProgressCallback

__all__ = ["Inside"]

_LOG_IN_SECONDS = 30.0


class Inside:
    """The part of `VM` that speaks to the guest."""

    _host: Host
    _domain: Domain

    if TYPE_CHECKING:

        def _record(self) -> Record: ...

    @property
    def agent(self) -> GuestAgent:
        """Its guest agent: a way in that needs no network."""
        from vmctl.agent import GuestAgent

        return GuestAgent(self._domain, record=self._record)

    def ssh(self) -> SSHSession:
        """Return the connection to the guest; it is kept and shared, so don't close it.

        Raises:
            GuestUnreachableError: The guest has no SSH that vmctl could use, or can't be reached.
            HostKeyMismatchError: Somebody else answers.
            WrongStateError: It is off.
        """
        return self._link.session()

    @property
    def _link(self) -> Link:
        from vmctl.guest.link import Link

        return Link(self._domain.uuid, self._host.sessions, self._log_in)

    def _check_running(self) -> None:
        state = self._domain.state()
        if state is not State.RUNNING:
            name = self._domain.name
            paused = f"let it go on: `vmctl resume {name}`"
            raise WrongStateError(
                f"'{name}' is {state.value}: it can't be reached",
                state=state.value,
                hint=paused if state is State.PAUSED else f"start it: `vmctl start {name}`",
            )

    def _check_connected(self) -> None:
        """Refuse a machine that has no NIC: no waiting brings it an address."""
        from vmctl.guest import addresses

        if not addresses.has_nic(self._domain):
            raise GuestUnreachableError(
                f"'{self._domain.name}' has no NIC, so it can't be reached by SSH",
                hint=f"attach one: `vmctl nic attach {self._domain.name} --user`",
            )

    def _no_key(self) -> GuestUnreachableError:
        return GuestUnreachableError(
            f"'{self._domain.name}' has no cloud-init, so vmctl has no key to it",
            hint=f"use its console: `vmctl logs {self._domain.name}`",
        )

    def _log_in(self) -> SSHSession:
        from vmctl.guest import readiness

        record = self._record()
        self._check_running()
        if not record.host_key:
            raise self._no_key()
        self._check_connected()
        return readiness.log_in(
            self._domain,
            record,
            reach=self._host.reach,
            key=self._host.key,
            timeout=_LOG_IN_SECONDS,
        )

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
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        via: running.Via = None,
    ) -> CompletedCommand:
        """Run a command in the guest: by SSH, or by the agent where SSH can't be had.

        Args:
            command: Words, or a line for the guest's shell.
            stdin: What the command reads: bytes, or a file that is read while it runs (by the
                agent: before it runs).
            timeout: Seconds; None waits for ever.
            check: Whether a status other than 0 is an error.
            env: Variables that it finds. Their values are on no command line in the guest.
            cwd: The folder that it runs in; the status is 126 when that can't be entered.
            user: Another user to run it as, by sudo without a password.
            on_stdout: Called with each piece of output as it comes (by the agent: at the end).
            on_stderr: The same for errors.
            via: The only way to try; None tries SSH, then the agent.

        Returns:
            Its status and outputs; ``via`` says which way it went.

        Raises:
            GuestUnreachableError: Neither SSH nor the agent answers.
            CommandFailedError: ``check`` is set, and the status is not 0.
            WaitTimeoutError: It did not end in time.
            UsageError: There is no command, or a name in ``env`` can't be one.
        """
        from vmctl.guest import running
        from vmctl.guest.agent import Agent

        done = running.run(
            self._link,
            Agent(self._domain),
            command,
            stdin=stdin,
            timeout=timeout,
            env=env,
            cwd=cwd,
            user=user,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            via=via,
        )
        return done.check() if check else done

    def copy_to(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        target: str,
        *,
        recursive: bool = False,
        via: running.Via = None,
        progress: ProgressCallback | None = None,
    ) -> CopiedFiles:
        """Copy a file or a tree into the guest, as the user that vmctl logs in as.

        Modes and times (whole seconds) are kept, owners are not. Links in a tree stay links. Each
        file appears when it is whole, with holes where there are blocks of zeros.

        Args:
            source: A path here, or an open file.
            target: A path in the guest; what is relative lies below the user's home. Into a
                folder that is there it goes under its own name.
            recursive: Whether a folder is copied with all that is in it.
            via: The only way to try; None tries SSH, then the agent, which takes single files,
                to absolute paths, as root.
            progress: Told of the one phase, ``copy``.

        Raises:
            NotFoundError: The source, or the folder to copy to, isn't there.
            UsageError: A folder without ``recursive``, or something that can't be copied.
            ConflictError: The source changed meanwhile, or something else is in its place.
            ResourceError: The guest's disk is full.
            GuestError: The guest's user may not, or the guest can't be reached.
        """
        from vmctl.guest import either_way
        from vmctl.guest.agent import Agent

        place = Path(source) if isinstance(source, str | os.PathLike) else source
        with Reporter(self._domain.name, progress).phase("copy") as phase:
            return either_way.send(
                self._link,
                Agent(self._domain),
                place,
                target,
                recursive=recursive,
                via=via,
                phase=phase,
            )

    def copy_from(
        self,
        source: str,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        recursive: bool = False,
        via: running.Via = None,
        progress: ProgressCallback | None = None,
    ) -> CopiedFiles:
        """Copy a file or a tree out of the guest; as `copy_to`, the other way round.

        Nothing is written but to the target and below it, whatever the guest says.

        Args:
            source: A path in the guest.
            target: A path here, or an open file.
            recursive: Whether a folder is copied with all that is in it.
            via: The only way to try.
            progress: Told of the one phase, ``copy``.

        Raises:
            NotFoundError: The source, or the folder to copy to, isn't there.
            UsageError: A folder without ``recursive``, or something that can't be copied.
            ConflictError: The source changed meanwhile, or something else is in its place.
            ResourceError: There is no room on this machine.
            GuestError: The guest's user may not, or the guest can't be reached.
        """
        from vmctl.guest import either_way
        from vmctl.guest.agent import Agent

        place = Path(target) if isinstance(target, str | os.PathLike) else target
        with Reporter(self._domain.name, progress).phase("copy") as phase:
            return either_way.receive(
                self._link,
                Agent(self._domain),
                source,
                place,
                recursive=recursive,
                via=via,
                phase=phase,
            )

    def forward(
        self,
        guest_port: int,
        *,
        guest_host: str = "127.0.0.1",
        local_port: int = 0,
        address: str = "127.0.0.1",
        on_refusal: Callable[[VmctlError], None] | None = None,
    ) -> AbstractContextManager[int]:
        """Make a port of this machine lead into the guest, while a ``with`` block runs.

        It goes over the kept SSH connection, which is opened again when the guest restarts. At the
        end of the block the port and all connections through it are closed.

        Args:
            guest_port: The port to lead to.
            guest_host: Where that port is, as the guest knows it: the guest itself, or another
                machine that it reaches.
            local_port: The port here; 0 for one that is free.
            address: The address here that it listens on; the default is for this machine alone.
            on_refusal: Told, from another thread, when a connection could not be passed on.

        Returns:
            A context manager, which gives the port here.

        Raises:
            ConflictError: The port here is in use.
            GuestUnreachableError: The guest can't be reached by SSH.
        """
        from vmctl.guest import tunnels

        return tunnels.forwarded(
            self._link,
            guest_host=guest_host,
            guest_port=guest_port,
            address=address,
            local_port=local_port,
            on_refusal=on_refusal,
        )

    def ssh_config(self, *, host: str | None = None) -> str:
        """Return lines for ``~/.ssh/config`` by which OpenSSH's programs reach the guest.

        They go through vmctl wherever the guest is, and accept its host key and no other. They
        need OpenSSH 8.5 or later.

        Args:
            host: The name in ``Host``; None for the machine's.

        Raises:
            GuestUnreachableError: It has no cloud-init, and so no key of vmctl's.
        """
        from vmctl.guest import ssh_config

        record = self._record()
        if not record.host_key:
            raise self._no_key()
        return ssh_config.render(
            host=host or self._domain.name,
            uuid=self._domain.uuid,
            user=record.ssh_user,
            host_key=record.host_key,
            uri=self._host.uri,
        )

    def ssh_socket(self) -> Any:
        """Return a connected socket to the guest's SSH server, for a client of another make.

        Raises:
            GuestUnreachableError: Nobody answers there.
            WrongStateError: It is off.
        """
        from vmctl.guest import proxy

        record = self._record()
        self._check_running()
        self._check_connected()
        return proxy.connect(self._domain, record, reach=self._host.reach, timeout=_LOG_IN_SECONDS)

    def open_channel(self) -> paramiko.Channel:
        """Return a new SSH channel, for an interactive shell."""
        return self._link.channel()
