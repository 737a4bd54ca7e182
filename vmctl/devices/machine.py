"""What the changes of all devices need: a machine's spec out of its record, and back into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lxml import etree

from vmctl.errors import SpecError, SpecProblem, UnsupportedError
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.metadata import Record
from vmctl.spec import BootDevice, VMSpec
from vmctl.spec.drives import Drive, DriveKind, place_drives
from vmctl.spec.problems import spec_error

__all__ = [
    "as_given",
    "drives_of",
    "no_port",
    "not_live",
    "pinned",
    "port_problem",
    "recorded",
    "spec_of",
    "with_drives",
]


def spec_of(record: Record) -> VMSpec:
    """Return a machine's spec, resolved, with every drive's name in it."""
    return pinned(VMSpec.from_record(record.spec))


def pinned(spec: VMSpec) -> VMSpec:
    """Return the spec, resolved, with every drive's name in it.

    Names follow from the order of the drives; when one goes, the others keep theirs.
    """
    spec = spec.resolved()
    names = {drive.path: drive.target for drive in place_drives(spec)}
    return spec.model_copy(
        update={
            kind: tuple(
                entry.model_copy(update={"target": names[f"{kind}[{index}]"]})
                for index, entry in enumerate(getattr(spec, kind))
            )
            for kind in ("disks", "cdroms")
        }
    )


def drives_of(spec: VMSpec, kind: DriveKind) -> dict[str, Drive]:
    """Return the drives of a kind by their names."""
    return {drive.target: drive for drive in place_drives(spec) if drive.kind is kind}


def with_drives(spec: VMSpec, **changes: Any) -> VMSpec:
    """Return the spec with other disks, NICs or drives in it, and what hangs on them.

    Raises:
        SpecError: There can be no such machine.
    """
    if "disks" in changes:
        disks = changes["disks"]
        if spec.image is not None and (not disks or disks[0].image != spec.image):
            changes["image"] = None
        order = tuple(
            device for device in spec.boot.order or () if disks or device is not BootDevice.DISK
        )
        if order != spec.boot.order:
            changes["boot"] = spec.boot.model_copy(update={"order": order or None})
    return spec.replace(**changes)


@contextmanager
def as_given(what: str, field: str) -> Iterator[None]:
    """Let errors speak of a device as it was given: its caller wrote no spec, and no list in it.

    Args:
        what: What it is: "the disk".
        field: Where it stands in the machine's spec, ``disks[1]``.
    """
    try:
        yield
    except SpecError as error:
        problems = [
            SpecProblem(_without(problem.path, field), problem.message)
            for problem in error.problems
        ]
        raise spec_error(problems, source=what, hint=error.hint) from error


def _without(path: str, field: str) -> str:
    return path.removeprefix(field).removeprefix(".") if path.startswith(field) else path


def recorded(spec: VMSpec, record: Record) -> dict[str, Any]:
    """Return what a record says of a spec; what was left out of it as a secret stays noted."""
    written = spec.without_secrets()
    if "redacted" in record.spec:
        written["redacted"] = record.spec["redacted"]
    return written


def not_live(problem: str) -> UnsupportedError:
    """Return the error for a change that the running machine can't have."""
    return UnsupportedError(
        problem, hint="make it for the next start only: --next-start, or next_start=True"
    )


def port_problem(name: str, root: etree._Element) -> str | None:
    """Say that a running machine has no PCI Express port left, where it needs one."""
    return no_port(name) if hotplug.free_ports(root) == 0 else None


def no_port(name: str) -> str:
    """Return the sentence for a machine without a port left."""
    return f"'{name}' has no PCI Express port left to plug a device into while it runs"
