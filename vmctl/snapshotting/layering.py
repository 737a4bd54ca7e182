"""Which layers of a machine's disks can be merged. Pure: facts in, the next step out.

A layer is merged downward: what it has is written into the one right underneath it, which a guest
or a snapshot goes on from then. Nothing else may lie on either of the two, and nobody may want to
go back to the one underneath as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Merge", "next_merge"]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A layer to be merged into the one right underneath it.

    Attributes:
        target: The disk's name on its bus.
        top: The layer's path.
        base: The path of the one underneath, which stays.
        active: Whether the guest writes to the layer.
    """

    target: str
    top: str
    base: str
    active: bool


def next_merge(
    target: str,
    chain: Sequence[str],
    *,
    heads: Collection[str],
    on_top: Mapping[str, Collection[str]],
    own: Collection[str],
) -> Merge | None:
    """Return what is to be merged next on a disk; None when nothing can be.

    Args:
        target: The disk's name on its bus.
        chain: The paths of its layers, the one that the guest writes to first.
        heads: The paths that snapshots go back to.
        on_top: What lies on a path, of any machine's.
        own: The paths that are this machine's alone, to be changed and deleted.
    """
    above: str | None = None
    for top, base in pairwise(chain):
        shared = set(on_top.get(base, ())) - {top} or set(on_top.get(top, ())) - {above}
        if top in own and base in own and base not in heads and not shared:
            return Merge(target=target, top=top, base=base, active=above is None)
        above = top
    return None
