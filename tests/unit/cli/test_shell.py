"""Joining a guest's channel to this process, against a real SSH server that runs real commands."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import paramiko
import pytest

from vmctl.errors import GuestUnreachableError, WaitTimeoutError
from vmctl.guest import shell
from vmctl.guest.shell import Escapes
from vmctl.guest.terminal import raw_mode


class _Server(paramiko.ServerInterface):
    """Runs each command by sh; ``drop`` closes the connection instead."""

    def __init__(self) -> None:
        self.transport: paramiko.Transport | None = None

    def check_auth_password(self, username: str, password: str) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._serve, args=(channel, command.decode()), daemon=True).start()
        return True

    def _serve(self, channel: paramiko.Channel, command: str) -> None:
        # The other side may have gone by the time that the command ends.
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._run(channel, command)

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        if command == "drop":
            assert self.transport is not None
            self.transport.close()
            return
        with subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as running:
            assert running.stdin is not None
            assert running.stdout is not None
            assert running.stderr is not None
            feeder = threading.Thread(target=_feed, args=(channel, running.stdin), daemon=True)
            feeder.start()
            errors = running.stderr
            teller = threading.Thread(target=_tell, args=(channel, errors))
            teller.start()
            while piece := os.read(running.stdout.fileno(), 65536):
                channel.sendall(piece)
            teller.join()
            channel.send_exit_status(running.wait())
            channel.close()
            feeder.join(5)


def _tell(channel: paramiko.Channel, errors: IO[bytes]) -> None:
    with suppress(OSError, EOFError, paramiko.SSHException):
        channel.sendall_stderr(errors.read())


def _feed(channel: paramiko.Channel, stdin: object) -> None:
    with suppress(OSError, ValueError):
        while piece := channel.recv(65536):
            stdin.write(piece)  # type: ignore[attr-defined]
            stdin.flush()  # type: ignore[attr-defined]
        stdin.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def host_key() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


@pytest.fixture
def channel(host_key: paramiko.PKey) -> Iterator[paramiko.Channel]:
    here, there = socket.socketpair()
    interface = _Server()
    server = paramiko.Transport(there)
    interface.transport = server
    server.add_server_key(host_key)
    server.start_server(server=interface, event=threading.Event())
    client = paramiko.Transport(here)
    client.start_client(timeout=30)
    client.auth_password("u", "p")
    yield client.open_session()
    client.close()
    server.close()


def test_status_and_outputs_pass_through(
    channel: paramiko.Channel, capfd: pytest.CaptureFixture[str]
) -> None:
    status = shell.pass_through(channel, command="echo out; echo err >&2; exit 7", stdin=None)
    assert status == 7
    assert capfd.readouterr() == ("out\n", "err\n")


def test_stdin_passes_through_byte_for_byte(
    channel: paramiko.Channel, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    # More than the windows of both directions together hold.
    content = os.urandom(6_000_000)
    file = tmp_path / "content"
    file.write_bytes(content)
    with file.open("rb") as stdin:
        assert shell.pass_through(channel, command="cat", stdin=stdin) == 0
    assert capfdbinary.readouterr().out == content


def test_without_stdin_the_command_reads_nothing(
    channel: paramiko.Channel, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shell.pass_through(channel, command="wc -c", stdin=None) == 0
    assert capfd.readouterr().out.strip() == "0"


def test_a_stdin_that_never_ends_holds_nothing_up(channel: paramiko.Channel) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as stdin:
        assert shell.pass_through(channel, command="exit 3", stdin=stdin) == 3
        os.close(writer)


def test_a_command_that_takes_too_long(channel: paramiko.Channel) -> None:
    with pytest.raises(WaitTimeoutError, match="sleep 5"):
        shell.pass_through(channel, command="sleep 5", stdin=None, timeout=0.2)


def test_a_connection_that_breaks(channel: paramiko.Channel) -> None:
    with pytest.raises(GuestUnreachableError):
        shell.pass_through(channel, command="drop", stdin=None)


def _interrupted_in_raw_mode(terminal: int) -> None:
    with raw_mode(terminal):
        assert not termios.tcgetattr(terminal)[3] & termios.ECHO
        raise KeyboardInterrupt


def test_the_terminal_is_put_back_whatever_happens() -> None:
    master, terminal = pty.openpty()
    try:
        before = termios.tcgetattr(terminal)
        with pytest.raises(KeyboardInterrupt):
            _interrupted_in_raw_mode(terminal)
        assert termios.tcgetattr(terminal) == before
    finally:
        os.close(master)
        os.close(terminal)


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ([b"ls\r"], b"ls\r"),
        ([b"~."], None),
        ([b"ls\r~."], None),
        ([b"ls\r", b"~", b"."], None),
        ([b"a~."], b"a~."),
        ([b"~~."], b"~."),
        ([b"~x\r"], b"~x\r"),
        ([b"~\r~."], None),
    ],
)
def test_escapes(typed: list[bytes], sent: bytes | None) -> None:
    escapes, out = Escapes(), b""
    for piece in typed:
        wanted = escapes.feed(piece)
        if wanted is None:
            assert sent is None
            return
        out += wanted
    assert out == sent
