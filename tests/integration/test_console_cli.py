"""`vmctl console` on a terminal and in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest

import vmctl
from vmctl.hypervisor import private

from .legacy_guest import PROMPT

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("nothing_left")]

_VMCTL = [sys.executable, "-m", "vmctl.cli.main", "console"]


@pytest.fixture
def environment(private_host: private.PrivateHost) -> dict[str, str]:
    return {**os.environ, "VMCTL_URI": f"private:{private_host.name}", "TERM": "xterm"}


class Terminal:
    """A terminal with a person in front of it."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.said = b""

    def start(self, words: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            env=environment,
        )

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def see(self, text: bytes, *, seconds: float = 30) -> None:
        """Read until a text was seen; the next look begins behind it."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            left = deadline - time.monotonic()
            assert left > 0, self.said
            if select.select([self.ours], [], [], left)[0]:
                self.said += os.read(self.ours, 4096)
        self.said = self.said.partition(text)[2]

    def is_put_back(self) -> bool:
        return bool(termios.tcgetattr(self.theirs) == self.before)

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    try:
        yield made
    finally:
        made.close()


def test_on_a_terminal(terminal: Terminal, old: vmctl.VM, environment: dict[str, str]) -> None:
    with terminal.start([*_VMCTL, old.name], environment) as client:
        terminal.see(b"Ctrl-] leaves")
        terminal.type(b"\r")
        terminal.see(PROMPT.encode())
        # Ctrl-C is the guest's, and so is a control sequence that the guest sends.
        terminal.type(b"dir\x03\x1b[1m")
        terminal.see(b"dir\x03\x1b[1m")
        assert not terminal.is_put_back()
        terminal.type(b"\x1d")
        assert client.wait(30) == 0
    assert terminal.is_put_back()
    assert old.state == "running"
    keys = ["--escape", "^A", "--size-key", "^T"]
    with terminal.start([*_VMCTL, *keys, old.name], environment) as client:
        terminal.see(b"Ctrl-A leaves, Ctrl-T types")
        terminal.resize(44, 132)
        terminal.type(b"\x14")
        terminal.see(b"stty rows 44 cols 132")
        terminal.see(PROMPT.encode())
        terminal.type(b"a\x01")
        assert client.wait(30) == 0
    assert terminal.is_put_back()


def test_on_a_terminal_when_it_is_ended_from_outside(
    terminal: Terminal, old: vmctl.VM, environment: dict[str, str]
) -> None:
    with terminal.start([*_VMCTL, old.name], environment) as client:
        terminal.see(b"leaves")
        terminal.type(b"\r")
        terminal.see(PROMPT.encode())
        client.terminate()
        assert client.wait(30) == 143
    assert terminal.is_put_back()
    with terminal.start([*_VMCTL, old.name], environment) as client:
        terminal.see(b"leaves")
        old.stop(force=True, timeout=0)
        assert client.wait(30) == 0
        terminal.see(b"its console is closed")
    assert terminal.is_put_back()


def test_one_that_another_client_holds(
    terminal: Terminal, old: vmctl.VM, environment: dict[str, str]
) -> None:
    with old.console.open():
        done = subprocess.run(
            [*_VMCTL, old.name],
            stdin=subprocess.DEVNULL,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 4
        assert done.stderr.splitlines()[-1].startswith("hint: take it over: `vmctl console --for")
        with terminal.start([*_VMCTL, "--force", old.name], environment) as client:
            terminal.see(b"leaves")
            terminal.type(b"mine")
            terminal.see(b"mine")
            # And by the same means it is lost.
            with old.console.open(force=True):
                assert client.wait(30) == 4
                terminal.see(b"took the console")
    assert terminal.is_put_back()


def test_in_a_pipe(old: vmctl.VM, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*_VMCTL, old.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"\rdir c:\xfe\r")
        client.stdin.close()
        said = b""
        while b"dir c:\xfe\r\nA:\\>" not in said:
            said += os.read(client.stdout.fileno(), 4096) or pytest.fail(repr(said))
        threading.Thread(target=old._domain.destroy).start()
        client.stdout.read()
        assert client.stderr is not None
        assert client.stderr.read().decode().strip().endswith("its console is closed")
        assert client.wait(30) == 0


def test_in_a_pipe_that_nobody_reads_any_more(old: vmctl.VM, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*_VMCTL, old.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"\r")
        client.stdin.flush()
        assert client.stdout.read(1)
        client.stdout.close()
        assert client.wait(30) == 141


@pytest.mark.parametrize("key", ["^1", "", "ab"])
def test_a_key_that_is_none(old: vmctl.VM, environment: dict[str, str], key: str) -> None:
    done = subprocess.run(
        [*_VMCTL, "--escape", key, old.name],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "write Ctrl-X as ^X" in done.stderr
