"""A clone of an internal snapshot, which lies in the very disks that the machine writes to.

libvirt reads disks as they are, and not as a snapshot inside of them has them. So the files are
copied byte by byte, through the client, with all snapshots that are in them; in the copy, libvirt
is told of these, goes back to the one, and deletes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lxml import etree

from vmctl.cloning.origin import (
    CopiedPart,
    Origin,
    copied_disks,
    copied_others,
    empty_drives,
    own_path,
    own_paths,
)
from vmctl.errors import WrongStateError
from vmctl.hypervisor import pools, snapshots
from vmctl.hypervisor.domains import DiskFile, Domain, State
from vmctl.hypervisor.metadata import Record, Role
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.imaging.scratch import saying_when_full, scratch_folder
from vmctl.progress import Phase
from vmctl.render.snapshot import render_found_snapshot
from vmctl.render.volume import render_volume
from vmctl.snapshotting.naming import refuse_ambiguous
from vmctl.snapshotting.switching import merged, record_in

__all__ = ["copy_bytes", "go_back_inside", "look_inside"]


def look_inside(domain: Domain, record: Record, name: str) -> Origin:
    """Look at all that a clone of an internal snapshot is made of.

    Raises:
        WrongStateError: The machine is not off.
        ConflictError: QEMU could take another snapshot for it.
        UnsupportedError: A disk can't be copied.
        NotFoundError: There is no such snapshot, or no pool has a disk.
    """
    if domain.is_active():
        state = domain.state()
        raise WrongStateError(
            f"'{domain.name}' is {state.value}: its internal snapshots lie in the disks that it "
            "writes to",
            state=state.value,
            hint=f"stop it first: `vmctl stop {domain.name}`",
        )
    details = snapshots.details_of(domain, name, secure=True)
    root = details.definition
    own = own_paths(domain.connection, record)
    others = [entry.name for entry in snapshots.list_snapshots(domain) if entry.name != name]
    parts = (*_disks(domain, root), *copied_others(domain, record, own, root))
    refuse_ambiguous(domain, name, others)
    memory = details.facts.state != State.SHUT_OFF
    return Origin(
        domain=domain,
        record=merged(record, record_in(root)),
        definition=etree.tostring(root, encoding="unicode"),
        running=False,
        parts=parts,
        console_log=own_path(own, Role.CONSOLE_LOG),
        # With UEFI there are no internal snapshots here.
        nvram="",
        nvram_source="",
        empty_drives=frozenset(empty_drives(root)),
        notes=(
            f"the memory in '{name}' is not in it: it starts from the disks, as after a power cut",
        )
        if memory
        else (),
        inside=(name, *others),
    )


def _disks(domain: Domain, root: etree._Element) -> Iterator[CopiedPart]:
    found = []
    for node in root.findall("devices/disk"):
        source, driver, target = (node.find(tag) for tag in ("source", "driver", "target"))
        if node.get("device", "disk") == "disk" and target is not None:
            path = "" if source is None else source.get("file") or source.get("dev") or ""
            form = "raw" if driver is None else driver.get("type", "raw")
            read_only = node.find("readonly") is not None
            found.append(DiskFile(path, form, target.get("dev", ""), read_only))
    for part in copied_disks(domain, found):
        # All that is in the file: snapshots, and the memory in them.
        yield replace(part, room=part.volume.facts().allocation)


def copy_bytes(source: StoredVolume, copy: StoredVolume, phase: Phase) -> None:
    """Copy a volume's file byte by byte, through this machine.

    Raises:
        ResourceError: There is no room, here or in the pool.
    """
    size = source.physical_size()
    done = 0

    def moved(count: int) -> None:
        nonlocal done
        done += count
        phase.update(phase.detail, min(done / (2 * size), 1.0))

    with saying_when_full(f"the volume '{source.name}'"), scratch_folder() as folder:
        path = folder / "volume"
        with path.open("xb") as file:
            source.download(file.fileno(), received=moved)
        copy.create(render_volume(copy.name, capacity=size, format="raw"))
        with path.open("rb") as whole:
            copy.upload(whole.fileno(), start=0, length=path.stat().st_size, sent=moved)
    # That it is qcow2, libvirt sees when it looks through the pool.
    pools.refresh(copy.connection, copy.pool)


def go_back_inside(clone: Domain, names: Sequence[str], targets: Sequence[str]) -> None:
    """Bring a clone's disks to the first of the snapshots in them, and delete all of these.

    Args:
        clone: The clone, which libvirt knows of no snapshot of.
        names: The snapshots.
        targets: The disks that they are in.
    """
    definition = clone.secret_xml()
    for name in names:
        xml = render_found_snapshot(name, targets=targets, definition=definition)
        snapshots.redefine(clone, xml)
    snapshots.revert(clone, names[0])
    for name in names:
        snapshots.delete(clone, name)
