"""Disks that may become larger than all of the pool that they are in."""

from __future__ import annotations

import logging

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.pools import facts_of

__all__ = ["warn_of_outgrowing"]

_log = logging.getLogger(__name__)


def warn_of_outgrowing(connection: Connection, pool: str, what: str, size: int) -> None:
    """Log a warning where a disk has more bytes than a pool has in all, free or not.

    It is no error: disks grow as they are filled, and few are ever filled.

    Args:
        connection: The host.
        pool: The pool's name.
        what: The disk, as a sentence about it begins.
        size: The bytes that a guest sees.
    """
    capacity = facts_of(connection, pool).capacity
    if 0 < capacity < size:
        _log.warning(
            "%s has %d MiB, more than all of the pool '%s' (%d MiB): a guest that fills it fills "
            "the pool",
            *(what, size >> 20, pool, capacity >> 20),
        )
