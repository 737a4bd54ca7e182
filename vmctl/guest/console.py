"""What the guest wrote to its serial console, as libvirt kept it."""

from __future__ import annotations

import re

from vmctl.errors import NotFoundError, VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.growing import older_parts
from vmctl.hypervisor.metadata import OwnedVolume, Record, Role
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.hypervisor.volumes import StoredVolume

__all__ = ["clean", "clean_text", "console_log", "console_tail", "log_volume"]

# ECMA-48 control sequences (CSI, OSC, two-byte escapes), and the control characters a log has no
# use for: what a guest writes must not be able to drive the terminal of who reads it.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[0-~]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def console_log(connection: Connection, record: Record, *, older: bool = False) -> str:
    """Return all that the guest wrote, without control sequences.

    Args:
        connection: The host.
        record: The machine's.
        older: Whether the older parts of a long log are in it too, as far as they are kept.

    Raises:
        NotFoundError: The machine keeps no console log.
    """
    volume = log_volume(record)
    pool = open_pool(connection, volume.pool)
    parts = [volume.name, *(older_parts(pool, volume.name) if older else ())]
    return clean(b"".join(_read(pool, name) for name in reversed(parts)))


def _read(pool: Pool, name: str) -> bytes:
    volume = StoredVolume.of(pool, name)
    try:
        return volume.read()
    except NotFoundError:
        # libvirt looked through the pool just when virtlogd had put the full log aside.
        pool.refresh()
        return volume.read()


def log_volume(record: Record) -> OwnedVolume:
    """Return the volume that the console log is kept in.

    Raises:
        NotFoundError: The machine keeps none.
    """
    volume = record.volume(Role.CONSOLE_LOG)
    if volume is None:
        raise NotFoundError(
            "the machine keeps no console log",
            hint="a machine keeps one when its first serial port has `log: true`",
        )
    return volume


def clean(written: bytes) -> str:
    """Return what was written as text that no terminal obeys; tabs and line feeds stay."""
    return clean_text(written.decode("utf-8", "replace"))


def clean_text(written: str) -> str:
    """Return text without what a terminal obeys; tabs and line feeds stay."""
    return _CONTROL.sub("", written)


def console_tail(connection: Connection, record: Record, *, lines: int = 20) -> str:
    """Return the last lines that the guest wrote, headed by what they are, for an error's details.

    It is called while an error is being put together, so it never raises one of its own: what went
    wrong stands in what it returns.
    """
    try:
        log = console_log(connection, record).rstrip()
    except VmctlError as error:
        return f"(no console log: {error.brief})"
    if not log.strip():
        return "the guest wrote nothing to its console"
    return "the end of its console:\n" + "\n".join(log.splitlines()[-lines:])
