"""A shell in the guest on a real terminal: its size, signals, its status."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

import vmctl
from vmctl.hypervisor import private

pytestmark = pytest.mark.timeout(300)


class Terminal:
    """A terminal of ours, with `vmctl ssh` on its other end."""

    def __init__(self, name: str, uri: str) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.client = subprocess.Popen(
            [sys.executable, "-m", "vmctl.cli.main", "ssh", name],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "VMCTL_URI": uri, "TERM": "xterm"},
        )

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def read_until(self, *ends: str) -> str:
        """Read until these texts were seen, each after the one before it."""
        said, at = b"", 0
        for end in ends:
            while (found := said.find(end.encode(), at)) < 0:
                piece = os.read(self._ours, 4096)
                assert piece, said
                said += piece
            at = found + len(end)
        return said.decode("utf-8", "replace")

    def read_for(self, seconds: float, end: str) -> str:
        """Read until a text was seen, or nothing came for so long."""
        said = b""
        while end.encode() not in said and select.select([self._ours], [], [], seconds)[0]:
            said += os.read(self._ours, 4096)
        return said.decode("utf-8", "replace")

    def ask_until(self, text: str, answer: str) -> str:
        """Type a text, again where nothing comes of it, until its answer and a prompt were seen."""
        said = ""
        while answer not in said:
            self.type(text)
            said += self.read_for(3.0, answer)
        while "$ " not in said[said.rindex(answer) :]:
            said += self.read_for(3.0, "$ ")
        return said

    def close(self) -> None:
        self.client.kill()
        self.client.wait()
        os.close(self.theirs)
        os.close(self._ours)


@pytest.fixture
def terminal(private_host: private.PrivateHost, shared_vm: vmctl.VM) -> Iterator[Terminal]:
    made = Terminal(shared_vm.name, f"private:{private_host.name}")
    try:
        made.read_until("$ ")
        yield made
    finally:
        made.close()


def test_size_signals_and_status(terminal: Terminal) -> None:
    # Whatever is typed waits for the prompt: the guest's shell takes the terminal out of its line
    # mode then, and what comes in just that moment is echoed, and lies there until more is typed.
    terminal.type("stty size; echo $TERM\n")
    assert "30 100\r\n" in terminal.read_until("xterm\r\n", "$ ")
    terminal.resize(44, 132)
    terminal.client.send_signal(signal.SIGWINCH)
    # The signal may come after what is typed: it has no place in the order of the bytes.
    terminal.ask_until("stty size; echo resized-$((40+2))\n", "44 132\r\nresized-42")
    # Ctrl-C is the guest's: it ends the command there, and not the client here.
    terminal.type("echo be''gun; sleep 1000; echo status-$?\n")
    terminal.read_until("begun\r\n")
    # The guest's shell may be just between its two commands, where one goes astray. And what is
    # typed before the prompt is back, or beside a Ctrl-C that is late, goes with what was
    # interrupted.
    assert "^C" in terminal.ask_until("\x03", "$ ")
    said = terminal.ask_until("echo still-$((40+2))\n", "still-42\r\n")
    assert "status-0" not in said
    assert terminal.client.poll() is None
    terminal.type("exit 7\n")
    assert terminal.client.wait(60) == 7
    assert termios.tcgetattr(terminal.theirs) == terminal.before


def test_left_by_an_escape(terminal: Terminal) -> None:
    terminal.type("sleep 1000\n")
    terminal.read_until("sleep 1000\r\n")
    terminal.type("~.")
    assert "left by ~." in terminal.read_until("hint:")
    assert terminal.client.wait(60) == 255
    assert termios.tcgetattr(terminal.theirs) == terminal.before
