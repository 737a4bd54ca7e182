"""Opening a connection to libvirt, for which libvirt itself would wait without end."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import libvirt

from vmctl.errors import HostUnavailableError

__all__ = ["Opening", "open_within"]


class Opening:
    """An attempt, in a thread of its own, which ends when the host answers or is gone.

    Args:
        uri: A libvirt URI.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._given_up = False
        self._raw: Any = None
        self._error: libvirt.libvirtError | None = None
        self._thread = threading.Thread(target=self._open, name="vmctl-opening", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        raw, failure = None, None
        try:
            raw = libvirt.open(self._uri)
        except libvirt.libvirtError as error:
            failure = error
        with self._lock:
            self._raw, self._error = raw, failure
            unwanted = self._given_up
        if unwanted:
            self._close()

    def _close(self) -> None:
        with self._lock:
            raw, self._raw = self._raw, None
        if raw is not None:
            with suppress(libvirt.libvirtError):
                raw.close()

    @property
    def failed(self) -> bool:
        """Whether it came to nothing."""
        with self._lock:
            return self._error is not None

    def wait(self, seconds: float) -> Any:
        """Return the ``virConnect``, when it is there.

        Raises:
            libvirt.libvirtError: Nobody answers there, or somebody refuses.
            HostUnavailableError: Somebody is there, and says nothing for so long; it can be waited
                for again.
        """
        self._thread.join(seconds)
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._raw is not None:
                return self._raw
        raise HostUnavailableError(
            f"the hypervisor at {self._uri} did not answer within {seconds:g} s",
            hint="its libvirtd hangs, or what is between here and there drops what is sent: try "
            "again, and restart libvirtd there",
        )

    def give_up(self) -> None:
        """Close what is opened after all."""
        with self._lock:
            self._given_up = True
        self._close()


def open_within(uri: str, seconds: float) -> Any:
    """Open a connection; see `Opening.wait`."""
    opening = Opening(uri)
    try:
        return opening.wait(seconds)
    except BaseException:
        opening.give_up()
        raise
