"""A machine taken back to a snapshot, as a transaction.

libvirt 9.0 doesn't go back to external snapshots. vmctl does: the files that the snapshot froze
stay as they are, the disks go on in fresh ones on top of them, and the definition of that time
comes back with these in it. That one step decides: before it, all is as it was, and the machine
runs on; after it, whoever comes next goes on to the end.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from lxml import etree

from vmctl import detours
from vmctl.errors import (
    ConflictError,
    HostUnavailableError,
    HypervisorError,
    ImageError,
    NotFoundError,
    UnsupportedError,
    VmctlError,
)
from vmctl.guest import ports
from vmctl.hypervisor import hotplug, networks, restores, runs, snapshots
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.jobs import wait_for_job
from vmctl.hypervisor.metadata import OwnedVolume, Phase, Record, Role, SnapshotWork
from vmctl.hypervisor.pools import list_pools, open_pool, refresh
from vmctl.hypervisor.snapshots import SnapshotDetails
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import Phase as ReportedPhase
from vmctl.progress import being_undone
from vmctl.snapshotting import inside, joining
from vmctl.snapshotting.choosing import SnapshotKind
from vmctl.snapshotting.files import look_up, owned_chain, sweep
from vmctl.snapshotting.naming import variables_name
from vmctl.snapshotting.planning import Overlay, VariablesCopy, plan_overlay
from vmctl.snapshotting.switching import (
    as_it_was,
    is_own,
    merged,
    record_in,
    switched,
    with_passwords_of,
    with_record,
)

__all__ = ["go_back", "is_made", "refuse_lost_files", "settle"]

# Longer than the reading of any memory takes.
_CLAIM_SECONDS = 7200.0


def go_back(
    domain: Domain, seen: detours.Seen, details: SnapshotDetails, *, phase: ReportedPhase
) -> None:
    """Take a machine back to one of its snapshots.

    Args:
        domain: The machine, which nobody is at work on.
        seen: It, as it was when this was decided.
        details: The snapshot, secrets included.
        phase: Told what is done.

    Raises:
        ConflictError: An address that it had is another machine's, or a network another tenant's.
        NotFoundError: A security group that it was in is gone.
        HypervisorError: Its memory can't be restored; the machine is as it was, and off.
    """
    joining.prepare(domain, seen.record, details)
    if details.facts.kind == SnapshotKind.INTERNAL:
        inside.go_back(domain, details.facts.name, seen=seen)
    else:
        _go_back_outside(domain, seen, details, phase)
    joining.rejoin(domain, seen.record, details)
    if domain.is_active():
        current = domain.record() or seen.record
        ports.open_all(domain, current.spec)


def refuse_lost_files(domain: Domain, details: SnapshotDetails) -> None:
    """Refuse a snapshot of which a file is gone.

    Raises:
        ImageError: It is so.
        UnsupportedError: It is another program's, and holds no disk at all.
    """
    if not details.disks:
        raise UnsupportedError(
            f"the snapshot '{details.facts.name}' of '{domain.name}' holds no disk, so it can't be "
            "gone back to",
            hint="another program took it of the memory alone; delete it",
        )
    for path in details.held:
        try:
            if path == details.memory:
                # libvirt reads it by itself, and it may lie in no pool.
                restores.saved_xml(domain, path)
            elif not path.startswith("/dev/"):
                look_up(domain, path).facts()
        except HostUnavailableError:
            raise
        except VmctlError as error:
            raise ImageError(
                f"the snapshot '{details.facts.name}' of '{domain.name}' lacks a file: {path}",
                details=error.details or error.brief,
                hint="bring it back, or delete the snapshot",
            ) from error
    if details.memory:
        _refuse_lost_media(domain, details)


def _refuse_lost_media(domain: Domain, details: SnapshotDetails) -> None:
    """Refuse a memory that goes on with a medium that is gone: the guest would be off for nothing.

    Of a file that is in no pool nobody knows; one of the disks alone goes back without it.
    """
    pools = {
        facts.target: facts.name
        for facts in list_pools(domain.connection)
        if facts.state == "running"
    }
    for path in details.files:
        pool = pools.get(path.rpartition("/")[0])
        if pool is None or path in details.held:
            continue
        try:
            look_up(domain, path)
        except NotFoundError as error:
            raise ImageError(
                f"the memory in the snapshot '{details.facts.name}' of '{domain.name}' goes on "
                f"with a file that is gone: {path}",
                hint=f"bring it back into the pool '{pool}', or delete the snapshot",
            ) from error


def _go_back_outside(
    domain: Domain, seen: detours.Seen, details: SnapshotDetails, phase: ReportedPhase
) -> None:
    record = seen.record
    before = domain.xml(inactive=True)
    overlays = _plan_overlays(domain, record, details)
    variables, variables_path = _plan_variables(domain, record, details)
    made = tuple(overlay.owned for overlay in overlays)
    if variables_path:
        made = (*made, _owned_at(record, variables, variables_path))
    work = SnapshotWork(
        snapshot=details.facts.name,
        made=made,
        sources={overlay.target: overlay.path(domain) for overlay in overlays},
        going=_leaving(domain, record, variables_path),
        before=before,
    )
    with claimed(_CLAIM_SECONDS) as claim:
        detours.begin(
            domain,
            Phase.REVERTING,
            claim,
            seen=seen,
            makes=made,
            work=work,
        )
        with detours.settled_afterwards(domain, settle):
            phase.update("making the files that the disks go on in")
            for overlay in overlays:
                overlay.make(domain)
            if variables is not None:
                variables.make()
            phase.update("bringing back the definition")
            _commit(domain, details, variables_path)
            phase.update("bringing back the memory" if details.memory else "cleaning up")


def _plan_overlays(domain: Domain, record: Record, details: SnapshotDetails) -> tuple[Overlay, ...]:
    return tuple(
        plan_overlay(domain, disk.target, disk.path, disk.format, record.volumes[0].pool)
        for disk in details.disks
    )


def _plan_variables(
    domain: Domain, record: Record, details: SnapshotDetails
) -> tuple[VariablesCopy | None, str | None]:
    """Work out UEFI's variables of that time: what is copied, and the path of the copy.

    Those of a snapshot that another program took are in no copy: then they stay as they are, and
    the path is None.
    """
    if details.definition.find("os/nvram") is None:
        return None, None
    kept = variables_name(domain, details.facts.name)
    copy = next((v for v in record.volumes if v.name == kept), None)
    name = f"{domain.uuid}.{secrets.token_hex(4)}.nvram"
    if copy is not None:
        pool = copy.pool
    elif is_own(details):
        # The machine had never been started: libvirt makes them at the next start.
        pool = record.volumes[0].pool
    else:
        return None, domain.firmware()[1] or None
    path = open_pool(domain.connection, pool).path_of(name)
    if copy is None:
        return None, path
    source = StoredVolume(domain.connection, copy.pool, copy.name)
    owned = OwnedVolume(pool=pool, name=name, role=Role.NVRAM)
    return VariablesCopy(source=source, owned=owned), path


def _owned_at(record: Record, variables: VariablesCopy | None, path: str) -> OwnedVolume:
    if variables is not None:
        return variables.owned
    name = path.rpartition("/")[2]
    own = record.volume(Role.NVRAM)
    if own is not None and own.name == name:
        return own
    return OwnedVolume(pool=record.volumes[0].pool, name=name, role=Role.NVRAM)


def _leaving(domain: Domain, record: Record, variables_path: str | None) -> tuple[OwnedVolume, ...]:
    """Return the volumes that the machine lies on now, and that it may have no use for then."""
    for pool in {volume.pool for volume in record.volumes}:
        refresh(domain.connection, pool)
    files = [disk.path for disk in domain.disks() if disk.path and not disk.read_only]
    going = owned_chain(domain, record, files)
    variables = record.volume(Role.NVRAM)
    if variables is not None and variables_path and not variables_path.endswith(variables.name):
        going = (*going, variables)
    return going


def _commit(domain: Domain, details: SnapshotDetails, variables: str | None) -> None:
    """Bring back the definition of that time, in other files: the one step that decides."""
    record = domain.record()
    if record is None or record.work is None:
        raise ConflictError(
            f"somebody else changed what is known of '{domain.name}' meanwhile",
            hint="try again",
        )
    then = merged(record, record_in(details.definition))
    # Volumes that were the machine's then, and have gone since, are not its own again.
    then = replace(
        then,
        volumes=tuple(
            volume
            for volume in then.volumes
            if volume in record.volumes
            or StoredVolume(domain.connection, volume.pool, volume.name).exists()
        ),
    )
    root = switched(
        details.definition,
        name=domain.name,
        sources={**_present_sources(domain, details), **record.work.sources},
        variables=variables,
        record=then,
    )
    hotplug.redefine(domain, lambda _now: root)


def _present_sources(domain: Domain, details: SnapshotDetails) -> dict[str, str]:
    """Return the files of the disks that a snapshot of another program's left out.

    Such a disk stays as it is now: what it was then lies underneath other files.
    """
    frozen = {disk.target for disk in details.disks}
    writable = {
        hotplug.identity_of(node)
        for node in hotplug.device_nodes(details.definition, "disk")
        if node.get("device", "disk") == "disk" and node.find("readonly") is None
    }
    return {
        disk.target: disk.path
        for disk in domain.disks()
        if disk.target in writable - frozen and disk.format == "qcow2" and disk.path
    }


def settle(domain: Domain) -> None:
    """Bring a revert to its end: forward where the definition is that of the snapshot, or back.

    Raises:
        HypervisorError: The memory can't be restored; the machine is as it was, and off.
    """
    wait_for_job(domain)
    record = domain.record()
    if record is None or record.phase is not Phase.REVERTING:
        return
    work = record.work
    if work is None or not snapshots.exists(domain, work.snapshot):
        detours.end(domain, record, work=None)
        return
    kind = snapshots.details_of(domain, work.snapshot).facts.kind
    if kind == SnapshotKind.INTERNAL:
        inside.go_on(domain, work.snapshot)
    elif is_made(domain, work):
        _go_forward(domain, record, work)
    else:
        _take_back(domain, record, work)


def is_made(domain: Domain, work: SnapshotWork) -> bool:
    """Return whether the definition is that of the snapshot already."""
    there = {disk.target: disk.path for disk in domain.disks()}
    return all(there.get(target) == path for target, path in work.sources.items())


def _take_back(domain: Domain, record: Record, work: SnapshotWork) -> None:
    gone = sweep(domain, work.made)
    kept = tuple(volume for volume in record.volumes if volume not in gone)
    detours.end(domain, record, work=None, volumes=kept)


def _go_forward(domain: Domain, record: Record, work: SnapshotWork) -> None:
    details = snapshots.details_of(domain, work.snapshot, secure=True)
    if domain.is_active() and not _runs_on_it(domain, details, work):
        domain.destroy()
    if details.memory and not domain.is_active():
        _restore(domain, record, details)
    snapshots.make_current(domain, work.snapshot)
    gone = sweep(domain, work.going)
    kept = tuple(volume for volume in record.volumes if volume not in gone)
    detours.end(domain, record, work=None, volumes=kept)


def _runs_on_it(domain: Domain, details: SnapshotDetails, work: SnapshotWork) -> bool:
    """Return whether the machine that runs is that of the snapshot, and not the one before it."""
    root = hotplug.definition(domain, later=False)
    there = {
        hotplug.identity_of(node): hotplug.source_of(node)
        for node in hotplug.device_nodes(root, "disk")
    }
    if any(there.get(target) != path for target, path in work.sources.items()):
        return False
    # One that was cut off while its memory was read has not run yet.
    cut_off = details.memory and details.facts.state == State.RUNNING.value
    return not (cut_off and domain.state() is State.PAUSED)


def _restore(domain: Domain, record: Record, details: SnapshotDetails) -> None:
    for name in domain.networks():
        networks.ensure_active(domain.connection, name)
    work = record.work or SnapshotWork(snapshot=details.facts.name)
    try:
        saved = etree.fromstring(restores.saved_xml(domain, details.memory))
        root = switched(
            saved,
            name=domain.name,
            sources=work.sources,
            variables=domain.firmware()[1] or None,
            record=record,
        )
        restores.restore(
            domain,
            details.memory,
            etree.tostring(root, encoding="unicode"),
            running=details.facts.state != State.PAUSED.value,
        )
    except (HostUnavailableError, ConflictError):
        raise
    except VmctlError as error:
        with being_undone():
            _return(domain, record, work)
        raise HypervisorError(
            f"the memory of '{domain.name}' in the snapshot '{work.snapshot}' can't be restored",
            code=getattr(error, "code", 0),
            details=error.details or error.brief,
            hint="the machine is as it was before, and off: start it, or mend the cause and "
            "revert again",
        ) from error
    runs.note_start(domain)


def _return(domain: Domain, record: Record, work: SnapshotWork) -> None:
    """Bring back the definition of before the revert, whose files are all there."""
    domain.destroy()
    before = etree.fromstring(work.before)
    old = record_in(before) or as_it_was(record)
    # Until what was made is gone, the record says so.
    old = replace(
        old,
        phase=Phase.REVERTING,
        before=old.phase,
        claim=record.claim,
        work=replace(work, before=""),
        volumes=tuple(dict.fromkeys((*old.volumes, *work.made))),
    )
    root = with_record(before, old)
    hotplug.redefine(domain, lambda now: with_passwords_of(root, now))
    _take_back(domain, old, work)
