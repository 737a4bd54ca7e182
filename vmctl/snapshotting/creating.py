"""An external snapshot of a machine, taken as a transaction.

What it makes is in the machine's record before it exists. Whether it was taken is then a fact:
libvirt has it or not, for it freezes all disks at once. So whoever comes after a client that was
killed finishes it, or takes back what was made for it; and lets the guest go on in either case.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vmctl import detours
from vmctl.agent import GuestAgent, thaw_for_sure
from vmctl.errors import GuestUnreachableError
from vmctl.hypervisor import hotplug, pools, snapshots
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.jobs import wait_for_job
from vmctl.hypervisor.metadata import Phase, Record, Role, SnapshotWork
from vmctl.hypervisor.open_files import open_files
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import Phase as ReportedPhase
from vmctl.progress import being_undone
from vmctl.snapshotting.choosing import Choice
from vmctl.snapshotting.files import sweep
from vmctl.snapshotting.planning import SnapshotPlan
from vmctl.snapshotting.switching import switched

__all__ = ["settle", "take"]

# Longer than the writing of any memory takes.
_CLAIM_SECONDS = 7200.0
_WRITING = "writing the guest's memory"


def take(
    domain: Domain,
    seen: detours.Seen,
    plan: SnapshotPlan,
    choice: Choice,
    *,
    description: str,
    phase: ReportedPhase,
) -> None:
    """Take an external snapshot.

    Args:
        domain: The machine, which nobody is at work on.
        seen: It, as it was when this was planned: an overlay lies on the file that the disk is in.
        plan: What the snapshot makes.
        choice: What is in it.
        description: What to remember of it.
        phase: Told what is done.
    """
    _forget_orphans(domain, seen.record, plan)
    record = domain.record() or seen.record
    stands = plan.variables is not None and domain.state() is State.RUNNING
    work = SnapshotWork(
        snapshot=plan.name, made=plan.volumes, suspended=stands, frozen=choice.quiesce
    )
    with claimed(_CLAIM_SECONDS) as claim:
        detours.begin(
            domain,
            Phase.SNAPSHOTTING,
            claim,
            seen=seen,
            makes=plan.volumes,
            work=work,
        )
        with detours.settled_afterwards(domain, settle):
            _freeze_files(domain, record, plan, choice, description=description, phase=phase)


def _freeze_files(
    domain: Domain,
    record: Record,
    plan: SnapshotPlan,
    choice: Choice,
    *,
    description: str,
    phase: ReportedPhase,
) -> None:
    phase.update("making the files that the disks go on in")
    for overlay in plan.overlays:
        overlay.make(domain)
    # All that is asked for is asked for now: from here on the guest waits.
    xml = plan.xml(domain, description=description)
    with ExitStack() as stack:
        if choice.quiesce:
            phase.update("freezing the guest's file systems")
            stack.enter_context(GuestAgent(domain, record=lambda: record).frozen())
        if plan.variables is not None:
            stack.enter_context(_standing_still(domain))
            plan.variables.make()
        phase.update(_WRITING if choice.memory else "freezing the disks' files")
        snapshots.create_external(
            domain,
            xml,
            name=plan.name,
            disk_only=not choice.memory,
            tell=lambda fraction: phase.update(_WRITING, fraction) if choice.memory else None,
        )


@contextmanager
def _standing_still(domain: Domain) -> Iterator[None]:
    """Stop the guest's processors while the block runs; it goes on whatever happens in it."""
    if domain.state() is not State.RUNNING:
        yield
        return
    domain.suspend()
    try:
        yield
    finally:
        with being_undone():
            outlasting(lambda: _go_on(domain))


def _go_on(domain: Domain) -> None:
    if domain.exists() and domain.state() is State.PAUSED:
        domain.resume()


def _forget_orphans(domain: Domain, record: Record, plan: SnapshotPlan) -> None:
    """Remove what a snapshot of the same name left whose metadata another program deleted."""
    names = {(volume.pool, volume.name) for volume in plan.volumes}
    left = [volume for volume in record.volumes if (volume.pool, volume.name) in names]
    for volume in left:
        StoredVolume(domain.connection, volume.pool, volume.name).delete()
    if left:
        kept = tuple(volume for volume in record.volumes if volume not in left)
        domain.update_record(volumes=kept)


def settle(domain: Domain) -> None:
    """Finish a snapshot that was taken, or take back what was made for one that was not.

    In either case the guest goes on.

    Raises:
        GuestUnreachableError: Its file systems may be frozen still; all else is settled.
    """
    wait_for_job(domain)
    record = domain.record()
    if record is None or record.phase is not Phase.SNAPSHOTTING:
        return
    work = record.work or SnapshotWork(snapshot="")
    if work.suspended:
        _go_on(domain)
    still_frozen = _thaw(domain) if work.frozen else None
    gone: tuple[object, ...] = ()
    if snapshots.exists(domain, work.snapshot):
        _correct(domain, work)
    else:
        _own_up(domain, work)
        gone = sweep(domain, work.made)
    for pool in {volume.pool for volume in work.made}:
        # libvirt wrote the memory beside the pool's back.
        pools.refresh(domain.connection, pool)
    kept = tuple(volume for volume in record.volumes if volume not in gone)
    detours.end(domain, record, work=None, volumes=kept)
    if still_frozen is not None:
        raise still_frozen


def _own_up(domain: Domain, work: SnapshotWork) -> None:
    """See to files that QEMU went on in when libvirtd was killed before it wrote that down.

    What the guest writes since then is in them: so they become the definition's, and stay.
    """
    if not domain.is_active():
        return
    known = {disk.path for disk in domain.disks()}
    paths = {
        open_pool(domain.connection, volume.pool).path_of(volume.name)
        for volume in work.made
        if volume.role is Role.DISK
    }
    if paths <= known or not paths & open_files(domain):
        return
    # UUID.TARGET.NUMBER.qcow2, as the plan names them.
    sources = {path.rpartition("/")[2].split(".")[1]: path for path in paths}
    record = domain.record()
    if record is not None:
        hotplug.redefine(
            domain,
            lambda root: switched(
                root, name=domain.name, sources=sources, variables=None, record=record
            ),
        )


def _thaw(domain: Domain) -> GuestUnreachableError | None:
    if not domain.is_active():
        return None
    try:
        thaw_for_sure(domain)
    except GuestUnreachableError as error:
        return error
    return None


def _correct(domain: Domain, work: SnapshotWork) -> None:
    """Let a snapshot say that the guest ran: for libvirt it was paused, which was vmctl's doing."""
    details = snapshots.details_of(domain, work.snapshot)
    if not (work.suspended and details.facts.memory):
        return
    if details.facts.state == State.PAUSED.value:
        snapshots.set_state(domain, work.snapshot, State.RUNNING)
