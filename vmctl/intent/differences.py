"""How two specs of one machine differ, field by field, with devices by their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vmctl.intent import rules
from vmctl.intent.matching import KEYED, targets_of
from vmctl.intent.rules import When
from vmctl.spec import VMSpec
from vmctl.spec.drives import DriveKind

__all__ = ["Action", "Difference", "compare"]

# What names a device is no field of it.
_NAMES = ("target", "mac")
# What lies in a drive is one thing, wherever it comes from.
_MEDIUM = ("path", "volume")


class Action(StrEnum):
    """What becomes of the field or device."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One difference between what is wanted and what is recorded.

    Attributes:
        path: The field, a device by its name: ``memory``, ``disks.vdb``, ``nics.52:54:00:..``.
        action: Whether something comes, goes or changes.
        before: Its value in the machine; None where it comes.
        after: The value that is wanted; None where it goes.
        when: When it can be made.
        why: Why not sooner; empty for what is made live.
    """

    path: str
    action: Action
    before: Any
    after: Any
    when: When
    why: str = ""


def compare(wanted: VMSpec, recorded: VMSpec) -> list[Difference]:
    """Return what differs, in the spec's order.

    Args:
        wanted: The new spec, resolved and aligned (see `matching.align`), without secrets.
        recorded: The machine's.
    """
    before, after = _tree(recorded), _tree(wanted)
    found: list[Difference] = []
    for field in before:
        if field in KEYED:
            found += _devices(field, before[field], after[field])
        else:
            found += _fields(field, before[field], after[field], depth=1)
    return found


def _tree(spec: VMSpec) -> dict[str, Any]:
    """Return a resolved spec as plain data, with its devices by their names."""
    data = spec.model_dump(mode="json")
    for field in KEYED:
        data[field] = dict(zip(_names(spec, field), data[field], strict=True))
    return data


def _names(spec: VMSpec, field: str) -> Iterator[str]:
    if field == "nics":
        yield from (nic.mac or f"new{index}" for index, nic in enumerate(spec.nics))
    else:
        yield from targets_of(spec, DriveKind(field))


def _devices(field: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*before, *after]):
        path = f"{field}.{name}"
        if name in before and name in after:
            old, new = (_parts(field, side[name]) for side in (before, after))
            yield from _fields(path, old, new, depth=1)
        elif name in after:
            yield _difference(path, Action.ADD, None, _written(after[name]))
        else:
            yield _difference(path, Action.REMOVE, _written(before[name]), None)


def _parts(field: str, device: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a device that are compared, each by itself."""
    parts = {name: value for name, value in device.items() if name not in _NAMES}
    if field in {"cdroms", "floppies"}:
        parts["medium"] = {name: parts.pop(name) for name in _MEDIUM}
        parts["medium"] = {k: v for k, v in parts["medium"].items() if v is not None} or None
    return parts


def _fields(path: str, old: Any, new: Any, *, depth: int) -> Iterator[Difference]:
    if depth and isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _fields(f"{path}.{name}", old.get(name), new.get(name), depth=depth - 1)
    elif old != new:
        yield _difference(path, Action.CHANGE, old, new)


def _difference(path: str, action: Action, before: Any, after: Any) -> Difference:
    when, why = rules.classify(path, action.value, before, after)
    return Difference(path=path, action=action, before=before, after=after, when=when, why=why)


def _written(device: dict[str, Any]) -> dict[str, Any]:
    """Return what a device's entry says, without what it leaves open."""
    nothing: tuple[Any, ...] = (None, [], False)
    return {
        name: value for name, value in device.items() if value not in nothing and name not in _NAMES
    }
