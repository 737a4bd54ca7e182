"""What of a machine decides how it is snapshotted, read from libvirt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from lxml import etree

from vmctl.errors import NotFoundError, UnsupportedError
from vmctl.hypervisor import backups
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.snapshots import SnapshotDetails
from vmctl.hypervisor.volumes import at_path
from vmctl.render.facts import HostFacts
from vmctl.snapshotting.bitmaps import HEADER, bitmaps_in
from vmctl.snapshotting.choosing import DiskShape, MachineShape, SnapshotKind

__all__ = ["descendants", "drive_targets", "shape_of", "tracked_disks"]


def shape_of(
    domain: Domain, snapshots: Sequence[SnapshotDetails], *, facts: Callable[[], HostFacts]
) -> MachineShape:
    """Return what decides the kind of a machine's next snapshot.

    Args:
        domain: The machine.
        snapshots: Those that it has.
        facts: Returns what its host can do; asked only where that counts.

    Raises:
        UnsupportedError: It has a medium that its guest can write to.
    """
    active = domain.is_active()
    root = etree.fromstring(domain.xml(inactive=not active))
    tracked = tracked_disks(domain)
    return MachineShape(
        name=domain.name,
        state=domain.state().value,
        active=active,
        disks=tuple(
            replace(disk, tracked=disk.target in tracked) for disk in _written_disks(domain, root)
        ),
        raw_variables=_has_raw_variables(root, facts),
        memory_barrier=_memory_barrier(root),
        kinds=frozenset(SnapshotKind(entry.facts.kind) for entry in snapshots),
    )


def tracked_disks(domain: Domain) -> frozenset[str]:
    """Return the disks with more dirty bitmaps in them than libvirt has checkpoints.

    Somebody made libvirt forget a checkpoint, and the disk keeps track all the same. QEMU does not
    go back to an internal snapshot then, and ends.
    """
    known = len(backups.checkpoints(domain))
    found = set()
    for disk in domain.disks():
        if disk.read_only or disk.format != "qcow2" or not disk.path:
            continue
        try:
            header = at_path(domain.connection, disk.path).read(length=HEADER)
        except NotFoundError:
            # It is in no pool: nobody knows.
            continue
        if bitmaps_in(header) > known:
            found.add(disk.target)
    return frozenset(found)


def drive_targets(root: etree._Element) -> tuple[str, ...]:
    """Return the targets of all disks and drives in a machine's XML."""
    return tuple(node.get("dev", "") for node in root.findall("devices/disk/target"))


def _written_disks(domain: Domain, root: etree._Element) -> Iterator[DiskShape]:
    for node in root.findall("devices/disk"):
        device = node.get("device", "disk")
        if node.find("readonly") is not None or device == "cdrom":
            continue
        driver, target = node.find("driver"), node.find("target")
        name = "" if target is None else target.get("dev", "")
        if device == "floppy":
            if node.find("source") is not None:
                raise UnsupportedError(
                    f"the floppy '{name}' in '{domain.name}' can be written to, "
                    "so it can't be in a snapshot",
                    hint="eject it first, or make it read-only",
                )
            continue
        yield DiskShape(
            target=name,
            format="raw" if driver is None else driver.get("type", "raw"),
            type=node.get("type", "file"),
            barrier=_barrier(node, device),
        )


def _barrier(node: etree._Element, device: str) -> str:
    if device == "lun":
        return "a passed-through device"
    if node.find("shareable") is not None:
        return "shared with other machines"
    if node.find("transient") is not None:
        return "a transient one, which forgets what is written"
    return "" if node.get("type", "file") in {"file", "block"} else "a server's"


def _has_raw_variables(root: etree._Element, facts: Callable[[], HostFacts]) -> bool:
    nvram = root.find("os/nvram")
    if nvram is None:
        return False
    holds = nvram.get("format") == "qcow2" and "internal-snapshot-nvram" in facts().features
    return not holds


def _memory_barrier(root: etree._Element) -> str:
    if root.find("devices/filesystem") is not None:
        return "shared folders"
    return "a device of the host" if root.find("devices/hostdev") is not None else ""


def descendants(name: str, found: Mapping[str, SnapshotDetails]) -> list[str]:
    """Return the snapshots below one, each after its parent."""
    todo, below = [name], list[str]()
    while todo:
        above = todo.pop(0)
        children = [other for other, entry in found.items() if entry.facts.parent == above]
        below += children
        todo += children
    return below
