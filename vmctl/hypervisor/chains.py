"""The files that a disk is made of: the one that is written to, and all that are underneath."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.errors import VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.volumes import at_path

__all__ = ["Layer", "read_chain"]

# No chain that anybody has is longer; one that names itself has no end.
_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A file of a disk's chain.

    Attributes:
        path: Where it is on the host.
        format: How it is written; empty where it lies in no pool, and so can't be asked for.
        capacity: Bytes that it shows; None where that isn't known.
        allocation: Bytes that it takes on the host; None where that isn't known.
    """

    path: str
    format: str = ""
    capacity: int | None = None
    allocation: int | None = None


def read_chain(connection: Connection, path: str, declared: str) -> tuple[Layer, ...]:
    """Return the files of a disk, the one that is written to first.

    Args:
        connection: The host.
        path: The disk's file.
        declared: Its format, as the machine has it.
    """
    found: list[Layer] = []
    while path and len(found) < _LONGEST and path not in {layer.path for layer in found}:
        try:
            volume = at_path(connection, path)
            facts = volume.facts()
            below = volume.format_underneath()
        except VmctlError:
            # It lies in no pool, or is gone: that there is such a layer is known all the same.
            found.append(Layer(path=path, format=declared))
            break
        kind = declared or facts.format
        found.append(
            Layer(
                path=path,
                format=kind,
                capacity=facts.capacity,
                allocation=facts.allocation,
            )
        )
        # In a raw disk there may be what looks like a header: its guest wrote that.
        path, declared = "" if kind == "raw" else facts.backing, below
    return tuple(found)
