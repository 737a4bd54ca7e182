"""Which of a machine's devices the entries of a new spec speak of.

A list in a spec has no names. An entry is the device that it names itself (its target, its MAC
address, its serial number, its volume); else the one at its place. Where entries went away and it
is not clear which, nothing is guessed: the wrong disk must not be detached.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from vmctl.devices.machine import pinned
from vmctl.errors import SpecError, SpecProblem
from vmctl.spec import VMSpec
from vmctl.spec.base import SpecModel
from vmctl.spec.drives import DriveKind, place_drives

__all__ = ["KEYED", "align", "targets_of"]

T = TypeVar("T", bound=SpecModel)

KEYED = {"disks": "target", "cdroms": "target", "floppies": "", "nics": "mac"}
"""The lists of a spec that are lists of devices, and the field with the device's name."""


def align(wanted: VMSpec, recorded: VMSpec) -> VMSpec:
    """Give the disks, CD-ROMs and NICs of a spec the names that they have in the machine.

    Args:
        wanted: The new spec, resolved.
        recorded: The machine's, resolved, with the MAC addresses of its NICs.

    Returns:
        The new spec; an entry without a name is a device that the machine lacks.

    Raises:
        SpecError: It can't be told which of several devices is meant.
    """
    there = pinned(recorded)
    disks = _aligned(
        wanted.disks,
        there.disks,
        (lambda disk: disk.target, lambda disk: disk.serial, lambda disk: disk.volume),
        field="disks",
        name="target",
    )
    cdroms = _aligned(
        wanted.cdroms,
        there.cdroms,
        (lambda drive: drive.target,),
        field="cdroms",
        name="target",
    )
    nics = _aligned(wanted.nics, recorded.nics, (lambda nic: nic.mac,), field="nics", name="mac")
    return wanted.model_copy(update={"disks": disks, "cdroms": cdroms, "nics": nics})


def targets_of(spec: VMSpec, kind: DriveKind) -> tuple[str, ...]:
    """Return the names of a resolved spec's drives of one kind on their buses, in its order."""
    return tuple(drive.target for drive in place_drives(spec) if drive.kind is kind)


def _aligned(
    wanted: Sequence[T],
    there: Sequence[T],
    keys: Sequence[Callable[[T], Hashable | None]],
    *,
    field: str,
    name: str,
) -> tuple[T, ...]:
    found = _by_keys(wanted, there, keys)
    open_wanted = [index for index in range(len(wanted)) if index not in found]
    # One with a name of its own that the machine lacks is a new one.
    open_wanted = [index for index in open_wanted if getattr(wanted[index], name) is None]
    open_there = [index for index in range(len(there)) if index not in found.values()]
    if len(open_wanted) >= len(open_there):
        found |= dict(zip(open_wanted, open_there, strict=False))
    else:
        found |= _by_content(wanted, there, open_wanted, open_there, field=field, name=name)
    return tuple(
        entry.model_copy(update={name: getattr(there[found[index]], name)})
        if index in found
        else entry
        for index, entry in enumerate(wanted)
    )


def _by_keys(
    wanted: Sequence[T], there: Sequence[T], keys: Sequence[Callable[[T], Hashable | None]]
) -> dict[int, int]:
    found: dict[int, int] = {}
    for key in keys:
        for index, entry in enumerate(wanted):
            value = key(entry)
            if index in found or value is None:
                continue
            for place, other in enumerate(there):
                if place not in found.values() and key(other) == value:
                    found[index] = place
                    break
    return found


def _by_content(
    wanted: Sequence[T],
    there: Sequence[T],
    open_wanted: Sequence[int],
    open_there: Sequence[int],
    *,
    field: str,
    name: str,
) -> dict[int, int]:
    """Match entries of which some went away: each must be like just one that is there."""
    found: dict[int, int] = {}
    # The first disk is what the machine boots from: it is no other because others went away.
    if field == "disks" and 0 in open_wanted and 0 in open_there:
        found[0] = 0
    for index in open_wanted:
        if index in found:
            continue
        like = [
            place
            for place in open_there
            if place not in found.values() and _same(wanted[index], there[place], name)
        ]
        if len(like) != 1:
            raise SpecError(
                f"it can't be told which of the machine's {field} are meant to go",
                problems=[SpecProblem(f"{field}[{index}]", f"which one is this? Give its {name}")],
                hint=f"`vmctl info` shows the {name} of each; write it to those that stay",
            )
        found[index] = like[0]
    return found


def _same(one: SpecModel, other: SpecModel, name: str) -> bool:
    return one.model_dump(exclude={name}) == other.model_dump(exclude={name})
