"""``memory=4GiB``: a field of a spec by its path, and another value for it.

A path is written as errors and `vmctl apply` write it: ``memory``, ``cpu.model``, ``labels.role``,
``disks.vdb.size`` (by the device's name) or ``disks[1].size`` (by its place).
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from vmctl.devices.machine import pinned
from vmctl.errors import UsageError
from vmctl.intent.matching import KEYED
from vmctl.spec import VMSpec

__all__ = ["assign", "parse", "written"]

_PATH = re.compile(r"[^.\[\]]+(\[\d+\])?(\.[^.\[\]]+(\[\d+\])?)*")
_HINT = "docs/reference/spec.md has the fields; `vmctl info` shows the machine's devices"


def parse(text: str) -> tuple[str, Any]:
    """Read ``PATH=VALUE``; the value is YAML.

    Raises:
        UsageError: It has no ``=``, or the value is no YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UsageError(
            f"{text[:80]!r} is not PATH=VALUE", hint="write a field and its value: memory=4GiB"
        )
    try:
        return path.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(
            f"the value of {path.strip()!r} is not YAML",
            details=str(error),
            hint="write it as in a spec, in quotes where it has signs of YAML's own",
        ) from error


def written(spec: VMSpec) -> dict[str, Any]:
    """Return what is written in a spec as plain data, each device with its name."""
    return pinned(spec).model_dump(mode="json", exclude_unset=True)


def assign(data: dict[str, Any], path: str, value: Any) -> None:
    """Give a field of a spec another value, in place.

    Args:
        data: The spec, as `written` gives it.
        path: The field. A device that is not there yet is added under its name.
        value: Its value; None is a value for a field, and takes a device away.

    Raises:
        UsageError: There is no such device, or that is no path.
    """
    steps = _steps(path)
    holder: Any = data
    for number, step in enumerate(steps[:-1]):
        known = step in KEYED and number == 0
        holder = _inner(holder, step, [] if known else {}, path)
    last = steps[-1]
    if steps[0] == "labels" and value is None:
        holder.pop(last, None)
    elif isinstance(holder, list):
        _assign_in_list(holder, last, value, path, KEYED.get(str(steps[0]), ""))
    else:
        holder[last] = value


def _steps(path: str) -> list[str | int]:
    if path.startswith("labels."):
        return ["labels", path.removeprefix("labels.")]
    if not _PATH.fullmatch(path):
        raise UsageError(f"{path[:80]!r} is not the path of a field", hint=_HINT)
    steps: list[str | int] = []
    for part in path.split("."):
        name, _, number = part.partition("[")
        steps.append(name)
        if number:
            steps.append(int(number.removesuffix("]")))
    return steps


def _inner(holder: Any, step: str | int, empty: Any, path: str) -> Any:
    if isinstance(holder, list):
        return holder[_index(holder, step, path)]
    inner = holder.get(step)
    if inner is None:
        inner = holder[step] = empty
    if not isinstance(inner, dict | list):
        # A short form (`cpu: maximum`) has no fields that could be set one by one.
        raise UsageError(f"{step!r} in {path!r} has no fields", hint=_HINT)
    return inner


def _assign_in_list(holder: list[Any], last: str | int, value: Any, path: str, name: str) -> None:
    try:
        index = _index(holder, last, path)
    except UsageError:
        if value is None or isinstance(last, int) or not name or not isinstance(value, dict):
            raise
        holder.append({**value, name: last})
        return
    if value is None:
        del holder[index]
    else:
        holder[index] = {**value, name: holder[index].get(name)} if name else value


def _index(holder: list[Any], step: str | int, path: str) -> int:
    if isinstance(step, int):
        if step < len(holder):
            return step
    else:
        for index, entry in enumerate(holder):
            if isinstance(entry, dict) and step in {entry.get("target"), entry.get("mac")}:
                return index
    raise UsageError(f"there is no {step!r} for {path!r}", hint=_HINT)
