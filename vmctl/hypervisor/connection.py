"""One connection to one libvirt: opened with keepalive, opened again when it was lost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from vmctl.errors import HostUnavailableError, PermissionDeniedError, VmctlError
from vmctl.hypervisor import eventloop
from vmctl.hypervisor.errors import calling, translate
from vmctl.hypervisor.events import EventHub, Listener, Signal
from vmctl.hypervisor.opening import Opening
from vmctl.hypervisor.uri import HostAddress, resolve

__all__ = ["Connection", "outlasting"]

T = TypeVar("T")

# A peer that is silent for about half a minute is gone (virConnectSetKeepAlive).
_KEEPALIVE_SECONDS = 5
_KEEPALIVE_COUNT = 6
# At first somebody may be asked for a password, by ssh; later everything is known.
_FIRST_OPENING_SECONDS = 60.0
_OPENING_SECONDS = 20.0
# A libvirtd that restarts is back by then.
_OUTAGE_SECONDS = 30.0


class Connection:
    """A connection that mends itself. Thread-safe.

    Args:
        uri: A libvirt URI, as `vmctl.hypervisor.uri.resolve` returns it.
        address: How the client gets to the machine that it leads to; None for what the URI says.

    Raises:
        HostUnavailableError: Nobody answers there.
        PermissionDeniedError: Somebody does, and refuses.
    """

    def __init__(self, uri: str, *, address: HostAddress | None = None) -> None:
        self.uri = uri
        self.address = address or resolve(uri)
        self.events = EventHub()
        self._lock = threading.RLock()
        self._raw: Any = None
        self._opening: Opening | None = None
        self._callbacks: list[int] = []
        self._more: list[int] = []
        self._wired = False
        self._closed = False
        eventloop.acquire()
        try:
            self._open(_FIRST_OPENING_SECONDS)
        except BaseException:
            self._give_up_opening()
            eventloop.release()
            self._closed = True
            raise

    def _open(self, seconds: float) -> None:
        try:
            raw = self._opened(seconds)
        except libvirt.libvirtError as error:
            raise _not_reached(error, self.uri) from error
        with calling(f"set up the connection to {self.uri}"):
            try:
                raw.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
                wired = True
            except libvirt.libvirtError:
                # Drivers without a wire (test:///) have no keepalive, and need none.
                wired = False
            try:
                self._callbacks = self.events.attach(raw)
                if self.events.has_listeners:
                    self._more = self.events.attach_more(raw)
                if wired:
                    # A driver without a wire would keep it for ever, and never call it.
                    raw.registerCloseCallback(self._on_close, None)
            except libvirt.libvirtError:
                raw.close()
                raise
        self._raw, self._wired = raw, wired
        self.events.opened()

    def _opened(self, seconds: float) -> Any:
        # Where the host hangs, whoever asks again waits for the attempt that there is: otherwise
        # each would leave a thread, and a socket. One that has failed since says nothing of now.
        if self._opening is None or self._opening.failed:
            self._opening = Opening(self.uri)
        try:
            raw = self._opening.wait(seconds)
        except libvirt.libvirtError:
            self._opening = None
            raise
        self._opening = None
        return raw

    def _give_up_opening(self) -> None:
        if self._opening is not None:
            self._opening.give_up()
            self._opening = None

    def _on_close(self, raw: Any, _reason: int, _opaque: None) -> None:
        # Called in libvirt's thread. An older connection may still be on its way out.
        if raw is self._raw:
            self.events.lost()

    @property
    def raw(self) -> Any:
        """The live ``virConnect``; a lost one is opened again first.

        Raises:
            HostUnavailableError: It is closed, or can't be opened again.
        """
        with self._lock:
            if self._closed:
                raise HostUnavailableError(
                    f"the connection to {self.uri} is closed", hint="call vmctl.connect() again"
                )
            if self._raw is None or not self.events.connected or not self._raw.isAlive():
                self.events.lost()
                self._drop()
                self._open(_OPENING_SECONDS)
                self.events.notify_all()
            return self._raw

    def _drop(self) -> None:
        raw, self._raw = self._raw, None
        callbacks, self._callbacks, self._more = [*self._callbacks, *self._more], [], []
        if raw is None:
            return
        # What is being closed may be broken already; there is nobody left to tell.
        for number in callbacks:
            with contextlib.suppress(libvirt.libvirtError):
                raw.domainEventDeregisterAny(number)
        if self._wired:
            with contextlib.suppress(libvirt.libvirtError):
                raw.unregisterCloseCallback()
        with contextlib.suppress(libvirt.libvirtError):
            raw.close()

    def subscribe(self, listener: Listener) -> None:
        """Pass all events to a listener, from now on."""
        with self._lock:
            raw = self.raw
            if self.events.add(listener):
                try:
                    with calling(f"listen to {self.uri}"):
                        self._more = self.events.attach_more(raw)
                except VmctlError:
                    self.events.remove(listener)
                    raise

    def unsubscribe(self, listener: Listener) -> None:
        """Pass nothing more to a listener; with the last one, libvirt is asked for less."""
        with self._lock:
            if not self.events.remove(listener):
                return
            more, self._more = self._more, []
            for number in more if self._raw is not None else ():
                # A connection that broke has no callbacks any more.
                with contextlib.suppress(libvirt.libvirtError):
                    self._raw.domainEventDeregisterAny(number)

    def catch_up(self) -> None:
        """Wait until all events of what happened before this call have been passed on."""
        # The answer to a question comes behind the events that the host has sent before.
        with calling(f"ask {self.uri} for its host name"):
            self.raw.getHostname()
        eventloop.catch_up()

    def close(self) -> None:
        """Close it, with its callbacks. Closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._give_up_opening()
            self._drop()
            self.events.closed()
        eventloop.release()


def outlasting(call: Callable[[], T]) -> T:
    """Call something that may be called again, until the host can be reached.

    For what has to be done even if libvirtd is being restarted just now.

    Raises:
        HostUnavailableError: It could not be reached for so long.
    """
    deadline = time.monotonic() + _OUTAGE_SECONDS

    def attempt() -> tuple[T] | None:
        try:
            return (call(),)
        except PermissionDeniedError:
            raise
        except HostUnavailableError:
            if time.monotonic() >= deadline:
                raise
            return None

    done = Signal().wait_for(attempt, deadline=deadline + 1)
    return call() if done is None else done[0]


def _not_reached(error: libvirt.libvirtError, uri: str) -> VmctlError:
    known = translate(error, f"connect to {uri}")
    if isinstance(known, PermissionDeniedError):
        return known
    return HostUnavailableError(
        f"can't reach the hypervisor at {uri}",
        details=known.details,
        hint="see what is missing with `vmctl doctor`, or bring up a host of your own: "
        "`vmctl host start NAME`, then use `private:NAME`",
    )
