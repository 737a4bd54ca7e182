"""The QEMU guest agent: a way in that needs no network.

Commands and their answers: https://qemu.readthedocs.io/en/latest/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import chain
from typing import Any, BinaryIO

from vmctl.errors import (
    GuestError,
    GuestUnreachableError,
    WaitTimeoutError,
    WrongStateError,
)
from vmctl.guest.command import CompletedCommand, shell_line
from vmctl.guest.surroundings import surround
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import Signal

__all__ = ["Agent"]

_PING_SECONDS = 3
_FOREVER = 86400.0
# A message of 256 KiB never gets through to the guest, and base64 takes a third more.
_MOST_AT_ONCE = 48 << 10
_READ_AT_ONCE = 256 << 10
# An answer that is too long for libvirt would cut the agent off until it is restarted. So what the
# command writes goes into files, which only root can read. What is short comes back at once;
# of what is not the folder is named, and the files are read piece by piece.
_AT_ONCE = 1 << 20
_NEW_FILE = "umask 077; mktemp /run/vmctl.XXXXXX 2>/dev/null || mktemp"
_KEEPING = """
[ -z "$3" ] || { exec <"$3"; rm -f "$3"; }
d=$(umask 077; mktemp -d /run/vmctl.XXXXXX 2>/dev/null || mktemp -d) || exit 125
/bin/sh -c "$1" >"$d/1" 2>"$d/2"
status=$?
if [ "$(wc -c <"$d/1")" -le "$2" ] && [ "$(wc -c <"$d/2")" -le "$2" ]; then
    echo -
    cat "$d/1"
    cat "$d/2" >&2
    rm -rf "$d"
else
    echo "$d"
fi
exit "$status"
"""


class Agent:
    """The agent of one machine. Each call ends when its answer doesn't come in time.

    Args:
        domain: The machine.
        timeout: Seconds for each answer.
    """

    def __init__(self, domain: Domain, *, timeout: int = 10) -> None:
        self._domain = domain
        self._timeout = timeout

    @property
    def domain(self) -> Domain:
        """The machine."""
        return self._domain

    @property
    def machine(self) -> str:
        """The machine's name."""
        return self._domain.name

    def ask(
        self, execute: str, arguments: dict[str, Any] | None = None, *, timeout: int | None = None
    ) -> Any:
        """Return its answer to a command.

        Raises:
            GuestUnreachableError: It does not answer.
            GuestError: It refuses.
            WrongStateError: The machine does not run, or its file systems are frozen.
        """
        try:
            return self._domain.agent(execute, arguments, timeout=timeout or self._timeout)
        except GuestUnreachableError:
            raise
        except GuestError as error:
            # Its own words say only that the command is disabled.
            if not execute.startswith("guest-fsfreeze") and self.is_frozen():
                raise WrongStateError(
                    f"the file systems of '{self.machine}' are frozen, so its agent does nothing",
                    state="frozen",
                    details=error.details,
                    hint=f"`vmctl agent thaw {self.machine}` lets them go on",
                ) from error
            raise

    def is_frozen(self) -> bool:
        """Return whether file systems are frozen; raises what `ask` does."""
        status = self._domain.agent("guest-fsfreeze-status", timeout=_PING_SECONDS)
        return bool(status == "frozen")

    def answers(self) -> bool:
        """Return whether it answers."""
        try:
            self.ask("guest-ping", timeout=min(self._timeout, _PING_SECONDS))
        except GuestUnreachableError:
            return False
        return True

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | BinaryIO = b"",
        timeout: float | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> CompletedCommand:
        """Run a command to its end, as the user the agent runs as (root).

        Args:
            command: Words, or a line for the shell.
            stdin: What it reads; a file is read to its end first, into one in the guest.
            timeout: Seconds; None waits for ever.
            on_stdout: Called once with all of its output, when it has ended.
            on_stderr: The same for its errors.
            env: Variables.
            cwd: The folder to run it in.
            user: Another user to run it as.

        Raises:
            GuestUnreachableError: No agent answers.
            GuestError: The agent may not run commands.
            WaitTimeoutError: The command did not end in time.
        """
        line = shell_line(command)
        inner, preamble = surround(line, env=env, cwd=cwd, user=user, via="agent")
        deadline = time.monotonic() + (_FOREVER if timeout is None else timeout)
        pid = self._start(inner, preamble, BytesIO(stdin) if isinstance(stdin, bytes) else stdin)
        done = Signal().wait_for(lambda: self._ended(pid), deadline=deadline, recheck=0.1)
        if done is None:
            raise WaitTimeoutError(
                f"the command {line!r} in '{self.machine}' did not end within {timeout:g} s",
                phase="command",
                hint="it runs on in the guest; give it more time, or look at what it waits for",
            )
        out, err = self._outputs(done)
        for said, tell in ((out, on_stdout), (err, on_stderr)):
            if said and tell is not None:
                tell(said)
        return CompletedCommand(
            command=line,
            exit_status=done["exitcode"] if "exitcode" in done else 128 + done.get("signal", 0),
            stdout=out.decode("utf-8", "replace"),
            stderr=err.decode("utf-8", "replace"),
            via="agent",
        )

    def _start(self, inner: str, preamble: bytes, stdin: BinaryIO) -> int:
        """Start a command; returns its process's number."""
        first = preamble + stdin.read(_MOST_AT_ONCE)
        file = ""
        if len(first) >= _MOST_AT_ONCE:
            file = self._exec("/bin/sh", "-c", _NEW_FILE).decode("utf-8", "replace").strip()
            self.store(file, chain((first,), iter(lambda: stdin.read(_MOST_AT_ONCE), b"")))
            first = b""
        arguments = ["-c", _KEEPING, "sh", inner, str(_AT_ONCE), file]
        argument: dict[str, Any] = {"path": "/bin/sh", "arg": arguments, "capture-output": True}
        if first:
            argument["input-data"] = base64.b64encode(first).decode("ascii")
        return int(self.ask("guest-exec", argument)["pid"])

    def _exec(self, program: str, *words: str) -> bytes:
        """Run a short program of vmctl's own; returns what it wrote.

        Raises:
            GuestError: It failed.
        """
        argument = {"path": program, "arg": list(words), "capture-output": True}
        pid = self.ask("guest-exec", argument)["pid"]
        deadline = time.monotonic() + self._timeout
        done = Signal().wait_for(lambda: self._ended(pid), deadline=deadline, recheck=0.05)
        if done is None or done.get("exitcode") != 0:
            raise GuestError(
                f"the agent of '{self.machine}' could not run {program}",
                details=_decoded((done or {}).get("err-data")).decode("utf-8", "replace").strip(),
                hint="is the guest's disk full, or its load high?",
            )
        return _decoded(done.get("out-data"))

    def _ended(self, pid: int) -> dict[str, Any] | None:
        status = self.ask("guest-exec-status", {"pid": pid})
        return status if status["exited"] else None

    def _outputs(self, done: dict[str, Any]) -> tuple[bytes, bytes]:
        out, err = _decoded(done.get("out-data")), _decoded(done.get("err-data"))
        head, _, out = out.partition(b"\n")
        if not head.startswith(b"/"):
            return out, err
        folder = head.decode("utf-8", "replace")
        try:
            return self.read(f"{folder}/1"), self.read(f"{folder}/2")
        finally:
            self.ask("guest-exec", {"path": "/bin/rm", "arg": ["-rf", "--", folder]})

    def read(self, path: str) -> bytes:
        """Return what is in a file; raises what `pieces` does."""
        return b"".join(self.pieces(path))

    def pieces(self, path: str) -> Iterator[bytes]:
        """Give what is in a file, piece by piece.

        Raises:
            GuestError: There is no such file, or the agent may not read it.
        """
        with self._opened(path, "r") as handle:
            while True:
                read = self.ask("guest-file-read", {"handle": handle, "count": _READ_AT_ONCE})
                piece = _decoded(read.get("buf-b64"))
                if piece:
                    yield piece
                if read.get("eof") or not piece:
                    return

    def store(self, path: str, pieces: Iterable[bytes]) -> None:
        """Write a file anew; one that is there keeps its owner and mode.

        Raises:
            GuestError: It can't be written, or the disk is full.
        """
        with self._opened(path, "w") as handle:
            for piece in pieces:
                for start in range(0, len(piece), _MOST_AT_ONCE):
                    self._store(handle, piece[start : start + _MOST_AT_ONCE])
            self.ask("guest-file-flush", {"handle": handle})

    def _store(self, handle: int, piece: bytes) -> None:
        while piece:
            text = base64.b64encode(piece).decode("ascii")
            written = self.ask("guest-file-write", {"handle": handle, "buf-b64": text})["count"]
            if not 0 < written <= len(piece):
                raise GuestError(
                    f"the agent of '{self.machine}' says it wrote {written} of {len(piece)} bytes",
                    hint="another program may have taken its place in the guest",
                )
            piece = piece[written:]

    @contextmanager
    def _opened(self, path: str, mode: str) -> Iterator[int]:
        handle = int(self.ask("guest-file-open", {"path": path, "mode": mode}))
        try:
            yield handle
        finally:
            # One that hangs, or was restarted, has no file open any more.
            with suppress(GuestError):
                self.ask("guest-file-close", {"handle": handle})


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text or "")
    except (binascii.Error, TypeError, ValueError) as error:
        raise GuestError(
            "the agent's answer is not what it should be",
            details=str(error),
            hint="another program may have taken its place in the guest",
        ) from error
