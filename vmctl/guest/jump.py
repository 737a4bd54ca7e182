"""A connection through the hypervisor, by the same ``ssh`` that libvirt itself takes to get there.

So whatever is set up for it works here as well: ``~/.ssh/config``, agents, other machines to jump
through, known hosts.
"""

from __future__ import annotations

import select
import shlex
import socket
import subprocess
import tempfile
from typing import IO

from vmctl.errors import HostUnavailableError
from vmctl.hypervisor.uri import HostAddress

__all__ = ["JumpSocket", "check_way_to", "connect_through", "run_there"]

_END_SECONDS = 5.0
# The way to the hypervisor takes longer than the one from there to the guest.
_SSH_SECONDS = 15.0
# What ssh(1) ends with when it is ssh that failed, and not the command.
_SSH_FAILED = 255


class JumpSocket(socket.socket):
    """One end of a pair of sockets, whose other end ``ssh -W`` has; ssh ends with it."""

    def __init__(self, command: list[str]) -> None:
        own, other = socket.socketpair()
        super().__init__(own.family, own.type, own.proto, fileno=own.detach())
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                command,
                stdin=other.fileno(),
                stdout=other.fileno(),
                stderr=self._errors,
                # Ctrl-C is for the client, which closes this in good order.
                start_new_session=True,
            )
        except BaseException:
            self.close()
            raise
        finally:
            other.close()

    def wait_for_first_byte(self, seconds: float) -> None:
        """Wait until the other side says something.

        Raises:
            OSError: There is no way there; the message is what ssh said last.
        """
        try:
            poll = select.poll()
            poll.register(self, select.POLLIN)
            ready = poll.poll(seconds * 1000)
            if ready and self.recv(1, socket.MSG_PEEK):
                return
            said = self._said_last() if ready else f"no answer within {seconds:g} s"
            raise OSError(said or "ssh ended without a word")
        except BaseException:
            self.close()
            raise

    def _said_last(self) -> str:
        if self._process is None or not _ends(self._process):
            return "it closed the connection"
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """Close it, and end ssh. Closing twice does nothing."""
        super().close()
        self._errors.close()
        if self._process is not None:
            # There is nothing that it would still have to pass on.
            self._process.terminate()
            if not _ends(self._process):
                self._process.kill()
                self._process.wait()


def _ends(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def connect_through(host: HostAddress, address: str, port: int, timeout: float) -> JumpSocket:
    """Connect to an address as the hypervisor sees it.

    Args:
        host: The hypervisor.
        address: An IP address.
        port: The port, of something that speaks first.
        timeout: Seconds until the hypervisor must have connected.

    Raises:
        OSError: There is no way there, or no program ``ssh`` here.
    """
    target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    made = JumpSocket([*_ssh(host), "-W", target, "--", host.ssh_host])
    made.wait_for_first_byte(timeout + _SSH_SECONDS)
    return made


def check_way_to(host: HostAddress) -> None:
    """See that the hypervisor can be logged in to, without a question.

    Raises:
        HostUnavailableError: It can't; or there is no program ``ssh`` here.
    """
    try:
        done = subprocess.run(
            [*_ssh(host), "--", host.ssh_host, "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * _SSH_SECONDS,
            check=False,
        )
        if done.returncode != _SSH_FAILED:
            return
        said = done.stderr.strip()
    except subprocess.TimeoutExpired:
        said = "it does not answer"
    except OSError as error:
        said = f"ssh: {error.strerror}"
    raise HostUnavailableError(
        f"can't reach {host.ssh_host} by SSH, through which its guests are reached",
        details=said,
        hint=f"check that `ssh {host.ssh_host}` works without a question",
    )


def run_there(
    host: HostAddress, command: list[str], text: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command on the hypervisor.

    Args:
        host: The hypervisor.
        command: The command; its words go through a shell there.
        text: What it reads.
        timeout: Seconds that it has, besides the way there.

    Raises:
        OSError: There is no way there, or no program ``ssh`` here.
    """
    try:
        done = subprocess.run(
            [*_ssh(host), "--", host.ssh_host, shlex.join(command)],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout + _SSH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError("it does not answer") from error
    if done.returncode == _SSH_FAILED:
        raise OSError(done.stderr.strip() or "ssh ended without a word")
    return done


def _ssh(host: HostAddress) -> list[str]:
    command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_SSH_SECONDS:.0f}"]
    if host.ssh_port is not None:
        command += ["-p", str(host.ssh_port)]
    if host.ssh_user:
        command += ["-l", host.ssh_user]
    if host.ssh_keyfile:
        command += ["-i", host.ssh_keyfile]
    if not host.ssh_verify:
        # As libvirt does for the URI's no_verify: it was asked for in so many words.
        command += ["-o", "StrictHostKeyChecking=no"]
    return command
