"""CD-ROM drives of a machine: what is in them, put in, changed and taken out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from vmctl.changes import carry_out, changing
from vmctl.client_files import refuse_unreadable
from vmctl.devices import making
from vmctl.devices.machine import recorded, spec_of
from vmctl.errors import ConflictError, NotFoundError, UsageError
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.hotplug import Scope
from vmctl.hypervisor.metadata import OwnedVolume, Pending, Record
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import ProgressCallback, Reporter
from vmctl.render.attached import render_medium
from vmctl.render.sources import DiskSource
from vmctl.render.templates import Templates
from vmctl.spec import DiskBus, VMSpec

__all__ = ["CdromDrive", "Cdroms", "eject", "insert", "list_cdroms"]


@dataclass(frozen=True, kw_only=True)
class CdromDrive:
    """A CD-ROM drive.

    Attributes:
        target: Its name on its bus, ``sda``.
        bus: What it is attached to.
        source: The medium's path on the host; empty without one.
        now: What is in it while the machine runs; the same as ``source``, unless that is for the
            next start only.
    """

    target: str
    bus: str
    source: str
    now: str = ""


def list_cdroms(domain: Domain) -> Sequence[CdromDrive]:
    """Return the machine's CD-ROM drives."""
    later = _nodes(domain, later=True)
    now = _nodes(domain, later=False)
    return [
        CdromDrive(
            target=target,
            bus=_bus_of(node),
            source=hotplug.source_of(node),
            now=hotplug.source_of(now[target]) if target in now else "",
        )
        for target, node in later.items()
    ]


def _nodes(domain: Domain, *, later: bool) -> dict[str, etree._Element]:
    root = hotplug.definition(domain, later=later)
    return {
        hotplug.identity_of(node): node
        for node in hotplug.device_nodes(root, "disk")
        if node.get("device") == "cdrom"
    }


def _bus_of(node: etree._Element) -> str:
    target = node.find("target")
    return "" if target is None else target.get("bus", "")


def _find(domain: Domain, target: str) -> CdromDrive:
    drives = list_cdroms(domain)
    for drive in drives:
        if drive.target == target:
            return drive
    have = ", ".join(drive.target for drive in drives) or "none; list one under cdroms in its spec"
    raise NotFoundError(
        f"'{domain.name}' has no CD-ROM drive '{target[:80]}'", hint=f"its drives are: {have}"
    )


def insert(
    domain: Domain,
    target: str,
    path: str | os.PathLike[str] | None = None,
    *,
    volume: str | None = None,
    pool: str,
    replace: bool = False,
    force: bool = False,
    next_start: bool = False,
    templates: Templates | None = None,
    progress: ProgressCallback | None = None,
) -> CdromDrive:
    """Put a medium into a CD-ROM drive: of the running machine, and for its next start.

    Args:
        domain: The machine.
        target: The drive's name, ``sda``.
        path: An ISO image of the client; it is uploaded.
        volume: Or one that the host has: ``NAME``, ``POOL/NAME`` or a path there.
        pool: The pool to upload into, and in which ``NAME`` is looked up.
        replace: Whether a medium that is in it is changed for this one.
        force: Whether a tray is opened that the guest has locked.
        next_start: Whether a running machine goes on as it is until then.
        templates: Templates to use instead of the default ones.
        progress: Told of the phases ``disks`` and ``insert``.

    Raises:
        UsageError: Not exactly one of ``path`` and ``volume`` is given, or the file can't be read.
        NotFoundError: There is no such drive, no such file, or no such volume.
        ConflictError: There is a medium in it, or somebody else is at work on the machine.
        WrongStateError: The guest has locked the tray.
    """
    if (path is None) == (volume is None):
        raise UsageError(
            "a medium is a file of yours, or a volume of the host",
            hint="give one of them",
        )
    if path is not None:
        refuse_unreadable(Path(path).expanduser())
    reporter = Reporter(domain.name, progress)
    with changing(domain) as record:
        drive = _find(domain, target)
        _refuse_seed(domain, record, target)
        scope = hotplug.scope_of(domain, next_start=next_start)
        if (drive.source or (scope.now and drive.now)) and not replace:
            raise ConflictError(
                f"there is a medium in {target} of '{domain.name}': {drive.source or drive.now}",
                hint="--replace, or replace=True, changes it",
            )
        place = open_pool(domain.connection, pool)
        given = None if path is None else os.fspath(path)
        spec = spec_of(record)
        planned = making.plan_cdrom(
            spec, target, given, volume, uuid=domain.uuid, pool=place, reporter=reporter
        )
        if planned.source is None:  # pragma: no cover - one of the two was given
            raise UsageError("there is no medium to insert", hint="give a file, or a volume")
        source = planned.source
        pending = Pending(
            device=source.path or source.name or "",
            present=True,
            spec=recorded(_with_medium(spec, target, given, volume), record),
            made=None if planned.volume is None else planned.volume.owned,
        )
        old = _own_medium(domain, record, drive.source)

        def act() -> None:
            if planned.volume is not None:
                with reporter.phase("disks") as phase:
                    making.make(place, planned.volume, phase=phase)
            with reporter.phase("insert"):
                _change(domain, target, source, scope, force=force, templates=templates)

        carry_out(domain, pending, act)
        if old is not None and old != pending.made:
            _drop(domain, old)
    return _find(domain, target)


def _refuse_seed(domain: Domain, record: Record, target: str) -> None:
    if target not in {drive.target for drive in spec_of(record).cdroms}:
        raise ConflictError(
            f"{target} of '{domain.name}' is the drive for cloud-init's seed",
            hint="list a drive of its own under cdroms in the spec",
        )


def _with_medium(spec: VMSpec, target: str, path: str | None, volume: str | None) -> VMSpec:
    """Return the spec with a medium in a drive; the drive of a seed is in no list."""
    cdroms = tuple(
        entry.model_copy(update={"path": path, "volume": volume})
        if entry.target == target
        else entry
        for entry in spec.cdroms
    )
    return spec.model_copy(update={"cdroms": cdroms})


def _own_medium(domain: Domain, record: Record, source: str) -> OwnedVolume | None:
    for volume in record.volumes:
        if open_pool(domain.connection, volume.pool).path_of(volume.name) == source:
            return volume
    return None


def _drop(domain: Domain, medium: OwnedVolume) -> None:
    """Delete a medium that was the machine's own, once nothing of the machine has it any more."""
    path = open_pool(domain.connection, medium.pool).path_of(medium.name)
    used = any(path in {drive.source, drive.now} for drive in list_cdroms(domain))
    if used or hotplug.snapshots_with(domain, path):
        return
    StoredVolume(domain.connection, medium.pool, medium.name).delete()
    record = domain.record()
    if record is not None:
        kept = tuple(entry for entry in record.volumes if entry != medium)
        domain.update_record(volumes=kept)


def _change(
    domain: Domain,
    target: str,
    source: DiskSource | None,
    scope: Scope,
    *,
    force: bool,
    templates: Templates | None = None,
) -> None:
    """Put a medium into a drive, or take it out; first where the guest may refuse."""
    for later in (False, True):
        if not (scope.later if later else scope.now):
            continue
        node = hotplug.blank_source(_nodes(domain, later=later)[target])
        if source is not None:
            xml = render_medium(target, DiskBus(_bus_of(node)), source, templates=templates)
            rendered = etree.fromstring(xml)
            found = rendered.find("source")
            node.set("type", rendered.get("type", "file"))
            if found is not None:
                node.append(found)
        hotplug.change_medium(
            domain,
            etree.tostring(node, encoding="unicode"),
            Scope(now=not later, later=later),
            target=target,
            force=force,
        )


def eject(
    domain: Domain,
    target: str,
    *,
    force: bool = False,
    next_start: bool = False,
    progress: ProgressCallback | None = None,
) -> CdromDrive:
    """Take the medium out of a CD-ROM drive; a drive that is empty is left so.

    A medium that was uploaded for the machine is deleted.

    Args:
        domain: The machine.
        target: The drive's name, ``sda``.
        force: Whether a tray is opened that the guest has locked.
        next_start: Whether a running machine goes on as it is until then.
        progress: Told of the one phase, ``eject``.

    Returns:
        What it was.

    Raises:
        NotFoundError: There is no such drive.
        WrongStateError: The guest has locked the tray.
    """
    with changing(domain) as record:
        drive = _find(domain, target)
        _refuse_seed(domain, record, target)
        scope = hotplug.scope_of(domain, next_start=next_start)
        if not drive.source and not (scope.now and drive.now):
            return drive
        spec = recorded(_with_medium(spec_of(record), target, None, None), record)
        proof = f"not(devices/disk[target/@dev='{target}']/source)"
        with Reporter(domain.name, progress).phase("eject"):
            carry_out(
                domain,
                Pending.of_value(spec, proof),
                lambda: _change(domain, target, None, scope, force=force),
            )
        old = _own_medium(domain, record, drive.source)
        if old is not None:
            _drop(domain, old)
    return drive


class Cdroms:
    """The CD-ROM drives of one machine.

    Each change is made to the running machine and to the definition of its next start, and vmctl's
    record says the same afterwards.
    """

    def __init__(self, domain: Domain, *, pool: str, templates: Templates | None = None) -> None:
        self._domain = domain
        self._pool = pool
        self._templates = templates

    def list(self) -> Sequence[CdromDrive]:
        """Return its drives, and what is in them."""
        return list_cdroms(self._domain)

    def insert(
        self,
        target: str,
        path: str | os.PathLike[str] | None = None,
        *,
        volume: str | None = None,
        replace: bool = False,
        force: bool = False,
        next_start: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CdromDrive:
        """Put a medium into a drive; see `vmctl.devices.media.insert` for what it raises."""
        return insert(
            self._domain,
            target,
            path,
            volume=volume,
            pool=self._pool,
            replace=replace,
            force=force,
            next_start=next_start,
            templates=self._templates,
            progress=progress,
        )

    def eject(
        self,
        target: str,
        *,
        force: bool = False,
        next_start: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CdromDrive:
        """Take the medium out of a drive; see `vmctl.devices.media.eject` for what it raises."""
        return eject(self._domain, target, force=force, next_start=next_start, progress=progress)
