"""A machine's serial console as a stream of bytes in both directions.

https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainOpenConsole

It has a connection of its own. libvirt stops reading from a client whose stream its guest does not
empty, and whatever else that client asks for would wait behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import (
    ConflictError,
    HostUnavailableError,
    NotFoundError,
    VmctlError,
    WaitTimeoutError,
    WrongStateError,
)
from vmctl.hypervisor import eventloop
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.opening import open_within

__all__ = ["ConsoleStream", "console_devices"]

_FLAGS = libvirt.VIR_DOMAIN_CONSOLE_SAFE
_EVENTS = (
    libvirt.VIR_STREAM_EVENT_READABLE
    | libvirt.VIR_STREAM_EVENT_HANGUP
    | libvirt.VIR_STREAM_EVENT_ERROR
)
_RECEIVED = 262120
# virStreamRecv: there is nothing just now.
_NOTHING = -2
# Small, so that little is on its way when the guest stops reading.
_SENT = 256
_MOST_UNSENT = 64 * 1024
# How often a connection that breaks without a word is looked at.
_RECHECK_SECONDS = 1.0
_JOIN_SECONDS = 0.2
_OPENING_SECONDS = 20.0


def console_devices(domain: Domain) -> tuple[str, ...]:
    """Return the names of a running machine's ports that a client can talk to, the console first.

    They are libvirt's aliases: ``serial0``, ``serial1``, ``console1``. Where there is a console of
    its own (virtio), that is the guest's, and not the first serial port.
    """
    devices = etree.fromstring(domain.xml()).find("devices")
    own: list[str] = []
    ports: list[str] = []
    for node in () if devices is None else devices.iterchildren("console", "serial"):
        alias, target = node.find("alias"), node.find("target")
        if node.get("type") == "pty" and alias is not None and target is not None:
            is_own = node.tag == "console" and target.get("type") != "serial"
            (own if is_own else ports).append(alias.get("name", ""))
    return tuple(dict.fromkeys((*own, *ports)))


class ConsoleStream:
    """The console, held by this client until it is closed. Thread-safe.

    Args:
        domain: A machine that runs.
        device: The port, as `console_devices` names it; None for the console.
        force: Whether another client that holds it loses it.
        limit: Bytes that are kept until they are taken; older ones are dropped then.
        notify: Called, in another thread, when something came or the stream ended.

    Raises:
        ConflictError: Another client holds it.
        NotFoundError: The machine has no such port.
        WrongStateError: The machine is off.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        device: str | None = None,
        force: bool = False,
        limit: int = 1 << 20,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        self._domain = domain
        self._limit = limit
        self._notify = notify
        self._changed = threading.Condition()
        self._received = bytearray()
        self._lost = 0
        self._ended: str | None = None
        self._unsent = bytearray()
        self._sending = False
        self._writer: threading.Thread | None = None
        self._closed = False
        port = _choose(domain, device)
        eventloop.acquire()
        try:
            with calling(f"connect to {domain.connection.uri}"):
                self._raw: Any = open_within(domain.connection.uri, _OPENING_SECONDS)
            try:
                self._stream: Any = self._open(port, force=force)
            except BaseException:
                self._raw.close()
                raise
        except BaseException:
            eventloop.release()
            raise

    def _open(self, device: str, *, force: bool) -> Any:
        name = self._domain.name
        with calling(f"open the console of '{name}'", on=self._why_not):
            found = self._raw.lookupByUUIDString(self._domain.uuid)
            stream = self._raw.newStream(libvirt.VIR_STREAM_NONBLOCK)
            forced = libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else 0
            found.openConsole(device, stream, _FLAGS | forced)
            stream.eventAddCallback(_EVENTS, self._on_event, None)
        return stream

    def _why_not(self, error: libvirt.libvirtError) -> VmctlError | None:
        name = self._domain.name
        if is_code(error, libvirt.VIR_ERR_OPERATION_FAILED):
            return ConflictError(
                f"another client holds the console of '{name}'",
                details=error.get_error_message() or "",
                hint=f"take it over: `vmctl console --force {name}`, or `open(force=True)`",
            )
        if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
            return _off(self._domain)
        return None

    # -- what the guest writes --------------------------------------------------------------------

    def _on_event(self, stream: Any, _events: int, _opaque: object) -> None:
        """Take what came. Called in libvirt's thread, which must not wait and can't be told."""
        try:
            while (piece := stream.recv(_RECEIVED)) != _NOTHING:
                if not piece:
                    self._end("stopped", stream)
                    break
                self._receive(piece)
        except libvirt.libvirtError:
            self._end("broken", stream)

    def _receive(self, piece: bytes) -> None:
        with self._changed:
            self._received += piece
            over = len(self._received) - self._limit
            if over > 0:
                del self._received[:over]
                self._lost += over
            self._changed.notify_all()
        self._notify()

    def _end(self, how: str, stream: Any) -> None:
        # It would be reported again and again.
        with suppress(libvirt.libvirtError):
            stream.eventRemoveCallback()
        with self._changed:
            self._ended = self._ended or how
            self._changed.notify_all()
        self._notify()

    def take(self) -> tuple[bytes, int]:
        """Return what came since the last call, and how many bytes before it were dropped."""
        with self._changed:
            piece, lost = bytes(self._received), self._lost
            self._received.clear()
            self._lost = 0
        return piece, lost

    def wait(self, deadline: float) -> bool:
        """Wait until there is something to take, or nothing will come any more.

        Args:
            deadline: A time of `time.monotonic`.

        Returns:
            False at the deadline.
        """
        while True:
            with self._changed:
                left = deadline - time.monotonic()
                if self._received or self._ended or self._closed or not self._is_alive():
                    return True
                if left <= 0:
                    return False
                self._changed.wait(min(left, _RECHECK_SECONDS))

    def _is_alive(self) -> bool:
        return not self._closed and bool(self._raw.isAlive())

    @property
    def ended(self) -> bool:
        """Whether nothing will come any more."""
        with self._changed:
            return bool(self._closed or self._ended or not self._is_alive())

    def why_ended(self) -> VmctlError:
        """Return the error that says why nothing comes any more."""
        name = self._domain.name
        with self._changed:
            closed, how, alive = self._closed, self._ended, self._is_alive()
        if closed:
            return ConflictError(
                f"the console of '{name}' was closed", hint="open it again: `vm.console.open()`"
            )
        if not alive:
            return HostUnavailableError(
                f"the connection to the console of '{name}' broke",
                hint="the guest runs on: open its console again; `vmctl logs` has what it wrote",
            )
        try:
            active = self._domain.is_active()
        except VmctlError as error:
            return error
        if active and how == "broken":
            return ConflictError(
                f"another client took the console of '{name}' over",
                hint=f"take it back: `vmctl console --force {name}`, or `open(force=True)`",
            )
        return _off(self._domain)

    # -- what it is sent --------------------------------------------------------------------------

    def post(self, data: bytes) -> bool:
        """Have something sent, without waiting; returns False when too much waits already."""
        with self._changed:
            if self._closed or len(self._unsent) + len(data) > _MOST_UNSENT:
                return False
            self._unsent += data
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write, name="vmctl-console", daemon=True
                )
                self._writer.start()
            self._changed.notify_all()
        return True

    def send(self, data: bytes, *, timeout: float) -> None:
        """Send something, and wait until the host has taken it.

        Raises:
            WaitTimeoutError: The guest does not read.
            WrongStateError: The machine stopped.
            ConflictError: Another client took the console over.
            HostUnavailableError: The connection broke.
        """
        deadline = time.monotonic() + timeout
        for start in range(0, len(data), _MOST_UNSENT):
            piece = data[start : start + _MOST_UNSENT]
            self._flush(deadline, timeout)
            self.post(piece)
        self._flush(deadline, timeout)

    def _flush(self, deadline: float, timeout: float) -> None:
        with self._changed:
            while self._unsent or self._sending:
                left = deadline - time.monotonic()
                if self._ended or not self._is_alive():
                    break
                if left <= 0:
                    raise WaitTimeoutError(
                        f"'{self._domain.name}' has not read what was sent to its console "
                        f"within {timeout:g} s",
                        phase="console",
                        details=f"{len(self._unsent)} bytes are not sent yet",
                        hint="see on its screen what it does: `vmctl screenshot`",
                    )
                self._changed.wait(min(left, _RECHECK_SECONDS))
            broken = self._ended or not self._is_alive()
        if broken:
            raise self.why_ended()

    def _write(self) -> None:
        """Send what is to be sent; libvirt's own call waits when the guest does not read."""
        while True:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                while not (self._unsent or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                piece = bytes(self._unsent[:_SENT])
                del self._unsent[:_SENT]
                self._sending = True
                stream = self._stream
            if not _send(stream, piece):
                with self._changed:
                    self._unsent.clear()
                    self._sending = False
                    self._ended = self._ended or "broken"
                    self._changed.notify_all()
                return

    def close(self) -> None:
        """Give the console back. Closing twice does nothing."""
        with self._changed:
            if self._closed:
                return
            raw, stream = self._raw, self._stream
            self._closed = True
            self._changed.notify_all()
        # A host that waits for a guest which does not read hears nothing either: a send is stuck,
        # or the end of the stream would be. A connection that is to be kept alive then is given up
        # at once. And all of it may be gone already, with nobody left to tell.
        self._end_writer(raw)
        for call in (stream.eventRemoveCallback, lambda: raw.setKeepAlive(1, 1), stream.abort):
            with suppress(libvirt.libvirtError):
                call()
        self._stream = self._raw = None
        # The binding keeps a stream that had a callback for ever; without this, the stream keeps
        # its connection, and the callback what came.
        stream.__del__()
        stream._o = None
        with self._changed:
            self._received.clear()
        with suppress(libvirt.libvirtError):
            raw.close()
        eventloop.release()

    def _end_writer(self, raw: Any) -> None:
        writer = self._writer
        if writer is None:
            return
        writer.join(_JOIN_SECONDS)
        if writer.is_alive():
            with suppress(libvirt.libvirtError):
                raw.setKeepAlive(1, 1)
            writer.join()


def _choose(domain: Domain, device: str | None) -> str:
    if not domain.is_active():
        raise _off(domain)
    present = console_devices(domain)
    if not present:
        raise NotFoundError(
            f"'{domain.name}' has no console that a client could open",
            hint="a machine has one when its spec has `serials: [pty]`; "
            "`vmctl screenshot` and `vmctl type` work without",
        )
    if device is not None and device not in present:
        raise NotFoundError(
            f"'{domain.name}' has no port {device[:40]!r} that a client could open",
            hint=f"it has {', '.join(present)}",
        )
    return device or present[0]


def _off(domain: Domain) -> VmctlError:
    state = domain.state()
    if domain.is_active():
        return WrongStateError(
            f"'{domain.name}' was started anew: its console ended",
            state=state.value,
            hint="open its console again",
        )
    return WrongStateError(
        f"'{domain.name}' is {state.value}: its console is closed",
        state=state.value,
        hint=f"`vmctl logs {domain.name}` has what it wrote; `vmctl start {domain.name}` starts it",
    )


def _send(stream: Any, piece: bytes) -> bool:
    view = memoryview(piece)
    try:
        while view:
            count = stream.send(bytes(view))
            if count < 0:
                return False
            view = view[count:]
    except libvirt.libvirtError:
        return False
    return True
