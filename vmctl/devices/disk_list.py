"""The disks that a machine has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lxml import etree

from vmctl.errors import NotFoundError
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.domains import Domain

__all__ = ["AttachedDisk", "find_disk", "list_disks"]


@dataclass(frozen=True, kw_only=True)
class AttachedDisk:
    """A disk of a machine.

    Attributes:
        target: Its name on its bus, ``vdb``.
        bus: What it is attached to.
        source: Its path on the host, or what else it is.
        format: How it is written.
        capacity: What the guest sees, in bytes; None where that isn't known.
        serial: The serial number that the guest sees; empty without one.
        read_only: Whether the guest may only read.
        limits: Its limits, by libvirt's names.
        now: Whether the running machine has it; False for a machine that is off.
        later: Whether the machine has it at its next start.
    """

    target: str
    bus: str
    source: str
    format: str
    capacity: int | None = None
    serial: str = ""
    read_only: bool = False
    limits: dict[str, int] = field(default_factory=dict)
    now: bool = False
    later: bool = True


def list_disks(domain: Domain) -> Sequence[AttachedDisk]:
    """Return the disks that the machine has now, or will have at its next start."""
    later = _disk_nodes(hotplug.definition(domain, later=True))
    now = _disk_nodes(hotplug.definition(domain, later=False)) if domain.is_active() else {}
    return [
        _describe(
            domain,
            target,
            now.get(target, later.get(target)),
            now=target in now,
            later=target in later,
        )
        for target in dict.fromkeys((*later, *now))
    ]


def _disk_nodes(root: etree._Element) -> dict[str, etree._Element]:
    return {
        hotplug.identity_of(node): node
        for node in hotplug.device_nodes(root, "disk")
        if node.get("device", "disk") == "disk"
    }


def _describe(
    domain: Domain, target: str, node: etree._Element | None, *, now: bool, later: bool
) -> AttachedDisk:
    if node is None:  # pragma: no cover - a target comes from one of the two
        raise _no_disk(domain, target, ())
    driver, bus = node.find("driver"), node.find("target")
    limits = node.find("iotune")
    return AttachedDisk(
        target=target,
        bus="" if bus is None else bus.get("bus", ""),
        source=hotplug.source_of(node),
        format="" if driver is None else driver.get("type", ""),
        capacity=hotplug.capacity(domain, target),
        serial=node.findtext("serial") or "",
        read_only=node.find("readonly") is not None,
        limits={}
        if limits is None
        else {str(entry.tag): int(entry.text or 0) for entry in limits if entry.text != "0"},
        now=now,
        later=later,
    )


def _no_disk(domain: Domain, target: str, there: Sequence[str]) -> NotFoundError:
    have = ", ".join(there) or "none"
    return NotFoundError(
        f"'{domain.name}' has no disk '{target[:80]}'", hint=f"its disks are: {have}"
    )


def find_disk(domain: Domain, target: str) -> AttachedDisk:
    """Return the disk of that name.

    Raises:
        NotFoundError: There is none.
    """
    disks = list_disks(domain)
    for disk in disks:
        if disk.target == target:
            return disk
    raise _no_disk(domain, target, [disk.target for disk in disks])
