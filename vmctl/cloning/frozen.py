"""What a clone is made of when it is made of a snapshot: files that were frozen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from vmctl.cloning.origin import (
    CopiedPart,
    Origin,
    copied_disks,
    copied_others,
    empty_drives,
    nvram_of,
    own_path,
    own_paths,
)
from vmctl.errors import ConflictError, NotFoundError, UnsupportedError
from vmctl.hypervisor.chains import read_chain
from vmctl.hypervisor.domains import DiskFile, Domain, State
from vmctl.hypervisor.metadata import Record, Role
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.snapshots import SnapshotDetails, details_of
from vmctl.hypervisor.volumes import at_path
from vmctl.snapshotting.naming import variables_name
from vmctl.snapshotting.reverting import refuse_lost_files
from vmctl.snapshotting.switching import merged, record_in

__all__ = ["Frozen", "look_at_snapshot"]


@dataclass(frozen=True)
class Frozen:
    """The files of a snapshot, which nobody writes to while it is there."""

    domain: Domain
    snapshot: str
    stamps: tuple[tuple[str, str], ...]

    def refuse_changed(self) -> None:
        """See that it is there still, with the same files, as they were.

        Raises:
            ConflictError: It is not.
        """
        try:
            now = _stamps(self.domain, details_of(self.domain, self.snapshot))
        except NotFoundError:
            now = ()
        if now != self.stamps:
            raise ConflictError(
                f"the snapshot '{self.snapshot}' of '{self.domain.name}' did not stay as it was "
                "while its files were read",
                hint="leave it alone until that has ended, and try again",
            )


def look_at_snapshot(domain: Domain, record: Record, name: str) -> tuple[Origin, Frozen]:
    """Look at all that a clone of a snapshot is made of.

    Raises:
        NotFoundError: There is no such snapshot.
        UnsupportedError: A disk of it can't be copied.
        ImageError: It lacks a file.
    """
    details = details_of(domain, name, secure=True)
    refuse_lost_files(domain, details)
    root = details.definition
    own = own_paths(domain.connection, record)
    nvram = nvram_of(root)
    origin = Origin(
        domain=domain,
        record=merged(record, record_in(root)),
        definition=etree.tostring(root, encoding="unicode"),
        running=False,
        parts=(*_disks(domain, details), *copied_others(domain, record, own, root)),
        console_log=own_path(own, Role.CONSOLE_LOG),
        nvram=nvram,
        nvram_source=_variables(domain, record, name, own, nvram),
        empty_drives=frozenset(empty_drives(root)),
        notes=tuple(_notes(details)),
    )
    return origin, Frozen(domain, name, _stamps(domain, details))


def _disks(domain: Domain, details: SnapshotDetails) -> Iterator[CopiedPart]:
    frozen = {disk.target: disk for disk in details.disks}
    found = []
    for node in details.definition.findall("devices/disk"):
        source, driver, target = (node.find(tag) for tag in ("source", "driver", "target"))
        if node.get("device", "disk") != "disk" or target is None:
            continue
        name = target.get("dev", "")
        path = "" if source is None else source.get("file") or source.get("dev") or ""
        read_only = node.find("readonly") is not None
        if not read_only and (name not in frozen or frozen[name].path != path):
            raise UnsupportedError(
                f"the disk {name} is not in the snapshot '{details.facts.name}' of '{domain.name}'",
                hint="take a snapshot of all disks, or clone the machine as it is",
            )
        form = "raw" if driver is None else driver.get("type", "raw")
        found.append(DiskFile(path, form, name, read_only))
    yield from copied_disks(domain, found)


def _variables(
    domain: Domain, record: Record, snapshot: str, own: dict[str, Role], nvram: str
) -> str:
    """Return the path of UEFI's variables as the snapshot has them; empty where no pool has."""
    if not nvram:
        return ""
    name = variables_name(domain, snapshot)
    for volume in record.volumes:
        if volume.name == name and volume.role is Role.SNAPSHOT_NVRAM:
            return open_pool(domain.connection, volume.pool).path_of(name)
    # Of a machine that had never been started there are none; another program keeps none.
    return nvram if own.get(nvram) is Role.NVRAM else ""


def _stamps(domain: Domain, details: SnapshotDetails) -> tuple[tuple[str, str], ...]:
    return tuple(
        (layer.path, at_path(domain.connection, layer.path).stamp().written)
        for disk in details.disks
        for layer in read_chain(domain.connection, disk.path, disk.format)
    )


def _notes(details: SnapshotDetails) -> Iterator[str]:
    if details.facts.state != State.SHUT_OFF:
        yield (
            "the memory of its source is not in it: it starts from the disks of "
            f"'{details.facts.name}', as after a power cut unless they were quiesced"
        )
