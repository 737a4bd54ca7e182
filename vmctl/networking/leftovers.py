"""Networks whose making was cut off."""

from __future__ import annotations

from vmctl.hypervisor import network_making, networks
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.network_making import HalfMade

__all__ = ["abandoned", "remove"]


def abandoned(connection: Connection) -> list[HalfMade]:
    """Return the half-made networks whose makers are gone, and that nothing is plugged into."""
    return [
        entry
        for entry in network_making.half_made(connection)
        if entry.claim is not None
        and entry.claim.is_abandoned()
        and not networks.plugged_in(connection, entry.name)
    ]


def remove(connection: Connection, left: HalfMade) -> None:
    """Remove one, unless somebody went on with it meanwhile."""
    if left in abandoned(connection):
        network_making.forget(connection, left.name)
