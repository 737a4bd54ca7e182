"""A console that is open: what is sent to it, and what is expected of it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from vmctl.errors import UsageError, VmctlError, WaitTimeoutError
from vmctl.guest.expecting import ConsoleMatch, Expecting, Pattern
from vmctl.hypervisor.consoles import ConsoleStream
from vmctl.hypervisor.domains import Domain

__all__ = ["Console"]

_SHOWN_LINES = 20
_SEND_SECONDS = 30.0


class Console:
    """A serial console that this client holds. Close it, or use it in a ``with`` block.

    For one thread at a time. What the guest writes is text here, without control sequences.
    """

    def __init__(self, domain: Domain, stream: ConsoleStream, *, encoding: str = "utf-8") -> None:
        self._name = domain.name
        self._stream = stream
        self._encoding = encoding
        self._written = Expecting(encoding=encoding)
        self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def is_spent(self, *, reading: bool) -> bool:
        """Return whether nothing can be sent any more or, for reading, nothing is left either."""
        self._take()
        if not self._stream.ended:
            return False
        return not reading or self._told or not self._written.text

    def send(self, text: str | bytes, *, timeout: float = _SEND_SECONDS) -> None:
        r"""Send something as it is; what the Enter key sends is ``\r``.

        Args:
            text: Text, which is encoded as the console was opened for, or bytes.
            timeout: Seconds that the guest has to read it; more than a few KiB wait for it.

        Raises:
            UsageError: The text has a character that the encoding has not.
            WaitTimeoutError: The guest does not read.
            WrongStateError: The machine stopped.
            ConflictError: Another client took the console over.
            HostUnavailableError: The connection broke.
        """
        if isinstance(text, str):
            try:
                data = text.encode(self._encoding)
            except UnicodeEncodeError as error:
                raise UsageError(
                    f"the console's encoding {self._encoding} has no {error.object[error.start]!r}",
                    hint="open the console with another `encoding`, or send bytes",
                ) from None
        else:
            data = text
        self._stream.send(data, timeout=timeout)

    def expect(
        self, pattern: Pattern | Sequence[Pattern], *, timeout: float = 30.0
    ) -> ConsoleMatch:
        """Wait until the guest writes something.

        Args:
            pattern: Text as it stands, a compiled regular expression, or several of them: the one
                that stands first in what the guest wrote is taken.
            timeout: Seconds.

        Returns:
            What matched, and what came before it since the last match. What comes after it is kept
            for the next call; of a flood, only the end is kept.

        Raises:
            WaitTimeoutError: It was not written in time; ``details`` has what was written last.
            WrongStateError: The machine stopped.
            ConflictError: Another client took the console over.
            HostUnavailableError: The connection broke, as it does when libvirtd restarts.
        """
        patterns = _patterns(pattern)
        deadline = time.monotonic() + timeout
        while True:
            # Before looking, so that what was written last is not missed.
            over = self._stream.ended
            self._take()
            found = self._written.find(patterns)
            if found is not None:
                return found
            if over:
                self._told = True
                raise self._with_last(self._stream.why_ended())
            if not self._stream.wait(deadline):
                raise self._with_last(
                    WaitTimeoutError(
                        f"'{self._name}' did not write {_shown(patterns)} to its console "
                        f"within {timeout:g} s",
                        phase="console",
                        hint="only what is written while the console is open is seen here; "
                        f"`vmctl logs {self._name}` has what came before",
                    )
                )

    def read(self, *, timeout: float = 0.0) -> str:
        """Return what the guest wrote and no `expect` took.

        Args:
            timeout: Seconds to wait for something when there is nothing.
        """
        self._take()
        if not self._written.text and self._stream.wait(time.monotonic() + timeout):
            self._take()
        return self._written.drain()

    def close(self) -> None:
        """Give the console back, so that others can open it. Closing twice does nothing."""
        self._stream.close()

    def _take(self) -> None:
        piece, _lost = self._stream.take()
        if piece:
            self._written.feed(piece)

    def _with_last(self, error: VmctlError) -> VmctlError:
        last = "\n".join(self._written.text.strip().splitlines()[-_SHOWN_LINES:])
        seen = f"the last that it wrote:\n{last}" if last else "it wrote nothing"
        error.details = "\n".join(filter(None, (error.details, seen)))
        return error


def _patterns(given: Pattern | Sequence[Pattern]) -> Sequence[Pattern]:
    patterns = [given] if isinstance(given, str | re.Pattern) else list(given)
    for pattern in patterns:
        regular = isinstance(pattern, re.Pattern)
        text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        if not isinstance(text, str) or not (text or regular):
            raise UsageError(
                f"{pattern!r} is nothing that a console could be searched for",
                hint="text that is not empty, or a compiled regular expression for text",
            )
    if not patterns:
        raise UsageError("there is nothing to expect", hint="give text, or a regular expression")
    return patterns


def _shown(patterns: Sequence[Pattern]) -> str:
    names = [repr(p if isinstance(p, str) else p.pattern)[:80] for p in patterns]
    return " or ".join(names)
