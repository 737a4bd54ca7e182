"""Attaching a disk to a machine."""

from __future__ import annotations

from contextlib import suppress

from vmctl import bases
from vmctl.changes import carry_out, changing
from vmctl.devices import making
from vmctl.devices.disk_list import AttachedDisk, find_disk
from vmctl.devices.machine import (
    as_given,
    drives_of,
    not_live,
    pinned,
    port_problem,
    recorded,
    spec_of,
    with_drives,
)
from vmctl.errors import ConflictError, NotFoundError, SpecError, SpecProblem, VmctlError
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.attachment import key_of
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.hotplug import Scope
from vmctl.hypervisor.metadata import Pending, Record
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.hypervisor.sharing import refuse_disk_in_use
from vmctl.hypervisor.usage import read_usage
from vmctl.hypervisor.volumes import at_path
from vmctl.progress import ProgressCallback, Reporter
from vmctl.render.attached import render_disk, render_scsi_controller
from vmctl.render.sources import DiskSource
from vmctl.render.templates import Templates
from vmctl.spec import DiskBus, DiskSpec, VMSpec
from vmctl.spec.drives import Drive, DriveKind, place_drives

__all__ = ["FIXED_BUSES", "attach_disk", "why_not_attached_live"]

FIXED_BUSES = frozenset({DiskBus.IDE, DiskBus.SATA})
"""Where no disk comes or goes while the machine runs."""


def why_not_attached_live(domain: Domain, bus: DiskBus) -> str | None:
    """Return why a disk on a bus can't be attached to the running machine; None if it can."""
    root = hotplug.definition(domain, later=False)
    if bus in FIXED_BUSES:
        return f"a disk on {bus} can't be plugged into a running machine; virtio and scsi can"
    if bus is DiskBus.USB and not hotplug.has_controller(root, "usb"):
        return f"'{domain.name}' has no USB controller to plug a disk into while it runs"
    needs_port = bus is DiskBus.VIRTIO or not hotplug.has_controller(root, bus)
    return port_problem(domain.name, root) if needs_port else None


def attach_disk(
    domain: Domain,
    disk: DiskSpec,
    *,
    pool: str,
    templates: Templates | None = None,
    next_start: bool = False,
    progress: ProgressCallback | None = None,
) -> AttachedDisk:
    """Attach a disk: to the running machine, and for its next start.

    Args:
        domain: The machine.
        disk: What it is: blank, a clone of an image, an existing volume, or a server's.
        pool: The pool that a new volume is made in.
        templates: Templates to use instead of the default ones.
        next_start: Whether a running machine gets it when it is started the next time only.
        progress: Told of the phases ``image``, ``disks`` and ``attach``.

    Raises:
        SpecError: The machine can have no such disk.
        UnsupportedError: The running machine can't get it before its next start.
        ConflictError: A running machine writes to the volume, or somebody else is at work here.
        NotFoundError: The image, the volume or the pool isn't there.
        ResourceError: There is no room.
    """
    reporter = Reporter(domain.name, progress)
    with changing(domain) as record:
        before = spec_of(record)
        _refuse_taken(domain, before, disk)
        index = len(before.disks)
        with as_given("the disk", f"disks[{index}]"):
            spec = pinned(with_drives(before, disks=(*before.disks, disk)))
        drive = next(
            entry for entry in drives_of(spec, DriveKind.DISK).values() if entry.index == index
        )
        _refuse_unlike(domain, drive)
        scope = hotplug.scope_of(domain, next_start=next_start)
        problem = why_not_attached_live(domain, drive.bus) if scope.now else None
        if problem is not None:
            raise not_live(problem)
        place = open_pool(domain.connection, pool)
        planned = making.plan(spec, index, uuid=domain.uuid, pool=place, reporter=reporter)
        if planned.volume is None and planned.source is not None:
            _refuse_used(domain, planned.source, writes=not spec.disks[index].read_only)
        xml = render_disk(
            drive,
            spec.disks[index],
            planned.source,
            planned.format,
            sata_port=_free_sata_port(domain),
            templates=templates,
        )
        if spec.disks[index].network is not None:
            refuse_disk_in_use(domain, xml)

        def act() -> None:
            if planned.volume is not None:
                with reporter.phase("disks") as phase:
                    making.make(place, planned.volume, phase=phase)
            with reporter.phase("attach"):
                _plug(domain, drive, xml, scope, templates)

        carry_out(domain, _coming(record, spec, drive, planned, place), act)
    return find_disk(domain, drive.target)


def _coming(
    record: Record, spec: VMSpec, drive: Drive, planned: making.PlannedDisk, pool: Pool
) -> Pending:
    volume = planned.volume
    base = None
    if volume is not None and volume.base is not None and not volume.full:
        base = (pool.name, bases.base_name(volume.base))
    return Pending(
        device=drive.target,
        present=True,
        spec=recorded(spec, record),
        made=None if volume is None else volume.owned,
        base=base,
    )


def _refuse_taken(domain: Domain, spec: VMSpec, disk: DiskSpec) -> None:
    if disk.target is not None and disk.target in {drive.target for drive in place_drives(spec)}:
        raise SpecError(
            f"'{domain.name}' has a drive '{disk.target}' already",
            problems=[SpecProblem("target", f"{disk.target} is taken")],
            hint="leave the target out, or choose another one",
        )


def _refuse_unlike(domain: Domain, drive: Drive) -> None:
    """Refuse a name that a device has of which vmctl's record does not know."""
    for later in (True, False):
        if hotplug.find_node(hotplug.definition(domain, later=later), "disk", drive.target):
            raise ConflictError(
                f"'{domain.name}' has a drive '{drive.target}' already that its spec does not have",
                hint="detach it first, or give the new disk another target",
            )


def _refuse_used(domain: Domain, source: DiskSource, *, writes: bool) -> None:
    """Refuse a volume that somebody writes to, or that others rely on.

    Raises:
        ConflictError: It names who that is.
    """
    usage = read_usage(domain.connection)
    pool, name, key = _names_of(domain, source)
    for use in usage.running(pool, name, key):
        if use.writes or writes:
            doing = "writes to" if use.writes else "reads"
            raise ConflictError(
                f"the machine '{use.machine}' runs and {doing} {source.key}, as its {use.target}",
                hint=f"detach it there first: vmctl disk detach {use.machine} {use.target}",
            )
    lying_on_it = [str(user) for user in usage.users(pool, name, key) if user.kind == "volume"]
    if writes and lying_on_it:
        raise ConflictError(
            f"{source.key} is underneath {', '.join(lying_on_it)}, and must not change",
            hint="attach it with read_only, or a clone of it",
        )


def _names_of(domain: Domain, source: DiskSource) -> tuple[str, str, str]:
    with suppress(NotFoundError):
        if source.path is not None:
            volume = at_path(domain.connection, source.path)
            return volume.pool, volume.name, key_of(domain.connection, volume.facts())
    return "", "", source.key


def _free_sata_port(domain: Domain) -> int:
    root = hotplug.definition(domain, later=True)
    taken = {
        int(node.get("unit", "0"))
        for disk in hotplug.device_nodes(root, "disk")
        for node in disk.findall("address[@type='drive']")
        if disk.find("target[@bus='sata']") is not None
    }
    return next(port for port in range(len(taken) + 1) if port not in taken)


def _plug(
    domain: Domain, drive: Drive, xml: str, scope: Scope, templates: Templates | None
) -> None:
    """Attach the disk, with the controller that it needs; what fails leaves neither."""
    needs = drive.bus is DiskBus.SCSI and not hotplug.has_controller(
        hotplug.definition(domain, later=True), "scsi"
    )
    controller = render_scsi_controller(templates=templates)
    if needs:
        hotplug.attach(domain, controller, scope, what="a SCSI controller")
    try:
        hotplug.attach(domain, xml, scope, what=f"the disk {drive.target}")
    except VmctlError:
        if needs:
            hotplug.detach_controller(domain, controller, scope)
        raise
