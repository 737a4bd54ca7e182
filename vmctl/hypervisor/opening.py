"""Opening a connection to libvirt, for which libvirt itself would wait without end."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import libvirt

from vmctl.errors import HostUnavailableError

__all__ = ["open_within"]


class _Opening:
    """An attempt in a thread of its own; what it opens after it was given up, it closes again."""

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
        if unwanted and raw is not None:
            with suppress(libvirt.libvirtError):
                raw.close()

    def wait(self, seconds: float) -> Any:
        """Return the connection; None where it was not there in time, and is given up."""
        try:
            self._thread.join(seconds)
        finally:
            # Whoever waits may be interrupted.
            with self._lock:
                self._given_up = self._raw is None and self._error is None
        if self._error is not None:
            raise self._error
        return self._raw


def open_within(uri: str, seconds: float) -> Any:
    """Open a connection.

    Args:
        uri: A libvirt URI.
        seconds: How long it may take.

    Returns:
        The ``virConnect``.

    Raises:
        libvirt.libvirtError: Nobody answers there, or somebody refuses.
        HostUnavailableError: Somebody is there, and says nothing for so long.
    """
    raw = _Opening(uri).wait(seconds)
    if raw is None:
        raise HostUnavailableError(
            f"the hypervisor at {uri} did not answer within {seconds:g} s",
            hint="its libvirtd hangs, or what is between here and there drops what is sent: try "
            "again, and restart libvirtd there",
        )
    return raw
