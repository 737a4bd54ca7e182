"""The serial console of a machine: ``vm.console``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vmctl.guest.console_session import Console
from vmctl.guest.consoles import Consoles
from vmctl.guest.expecting import ConsoleMatch, Pattern
from vmctl.guest.following import follow
from vmctl.hypervisor.consoles import ConsoleStream, console_devices
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record

__all__ = ["ConsoleAccess"]


class ConsoleAccess:
    """A machine's serial console. One client holds it at a time.

    Args:
        domain: The machine.
        record: Returns vmctl's record of it, or raises.
        kept: Where the console is kept that `send` and `expect` open.
    """

    def __init__(self, domain: Domain, *, record: Callable[[], Record], kept: Consoles) -> None:
        self._domain = domain
        self._record = record
        self._kept = kept

    def open(
        self, *, force: bool = False, device: str | None = None, encoding: str = "utf-8"
    ) -> Console:
        """Open the console; what the guest wrote before is in its log and not here.

        The one that `send` and `expect` keep is closed first.

        Args:
            force: Whether another client that holds it loses it.
            device: Another of the machine's ports than its console; see `devices`.
            encoding: How the guest writes text: ``utf-8``, ``cp437`` ...

        Raises:
            ConflictError: Another client holds it, or vmctl did not make the machine.
            NotFoundError: The machine has no such port.
            WrongStateError: The machine is off.
        """
        self.close()
        return self._open(force=force, device=device, encoding=encoding)

    def open_stream(
        self,
        *,
        force: bool = False,
        device: str | None = None,
        notify: Callable[[], None] = lambda: None,
        limit: int = 16 << 20,
    ) -> ConsoleStream:
        """Open the console as bytes in both directions, for a terminal or a pipe.

        Args:
            force: As in `open`.
            device: As in `open`.
            notify: Called, in another thread, when something came or the stream ended.
            limit: Bytes that are kept until they are taken.

        Raises:
            ConflictError: As in `open`, as all the others.
        """
        self._record()
        self.close()
        return ConsoleStream(self._domain, device=device, force=force, limit=limit, notify=notify)

    def _open(
        self, *, force: bool = False, device: str | None = None, encoding: str = "utf-8"
    ) -> Console:
        self._record()
        stream = ConsoleStream(self._domain, device=device, force=force)
        try:
            return Console(self._domain, stream, encoding=encoding)
        except BaseException:
            stream.close()
            raise

    def devices(self) -> tuple[str, ...]:
        """Return libvirt's names of the running machine's ports, the console first."""
        return console_devices(self._domain)

    def send(self, text: str | bytes, *, timeout: float = 30.0) -> None:
        """Send something to the console, as `Console.send` does.

        The console is opened if it isn't, and stays open for the next `send` or `expect` until
        `close`, the machine's end, or that of the `Host`.
        """
        self._kept.get(self._domain.uuid, self._open, reading=False).send(text, timeout=timeout)

    def expect(
        self, pattern: Pattern | Sequence[Pattern], *, timeout: float = 30.0
    ) -> ConsoleMatch:
        """Wait until the guest writes something, as `Console.expect` does.

        The console is opened if it isn't, and stays open, as with `send`.
        """
        console = self._kept.get(self._domain.uuid, self._open, reading=True)
        return console.expect(pattern, timeout=timeout)

    def follow(self, *, lines: int | None = None) -> Iterator[str]:
        """Yield the lines of the console's log, and those that are written from now on.

        It holds no console, goes on across restarts of the machine and of libvirtd, and ends when
        the machine is deleted.

        Args:
            lines: How many of the lines that are there already; None for all of them.

        Raises:
            NotFoundError: The machine keeps no console log.
            ConflictError: vmctl did not make it.
            HostUnavailableError: libvirtd does not come back.
        """
        return follow(self._domain, self._record(), lines=lines)

    def close(self) -> None:
        """Give back the console that `send` and `expect` opened; without one nothing is done."""
        self._kept.drop(self._domain.uuid)
