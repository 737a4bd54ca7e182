"""Snapshots that are deleted: forgotten first, then their layers are merged by QEMU.

The order makes it safe. From the moment that nobody can go back to a layer, its content may change;
until a merge is done, the layer on top hides every change of it. So a machine, and each snapshot
that stays, reads the same before, in the middle and afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from lxml import etree

from vmctl import detours
from vmctl.errors import (
    ConflictError,
    HypervisorError,
    NotFoundError,
    ResourceError,
    WaitTimeoutError,
)
from vmctl.hypervisor import blockjobs, pools
from vmctl.hypervisor import snapshots as backend
from vmctl.hypervisor.chains import read_chain
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.lost import refuse_lost
from vmctl.hypervisor.metadata import OwnedVolume, Phase, Record, Role, SnapshotWork
from vmctl.hypervisor.snapshots import SnapshotDetails
from vmctl.hypervisor.usage import VolumeUser, read_usage
from vmctl.hypervisor.volumes import at_path, list_volumes
from vmctl.progress import Phase as ReportedPhase
from vmctl.progress import ProgressCallback, Reporter, being_undone
from vmctl.snapshotting import files
from vmctl.snapshotting.layering import Merge, next_merge
from vmctl.snapshotting.naming import memory_name, variables_name
from vmctl.snapshotting.switching import led

__all__ = ["delete", "held", "merge", "settle"]

# Longer than the merging of any disk takes.
_CLAIM_SECONDS = 86400.0


def delete(
    domain: Domain,
    seen: detours.Seen,
    doomed: Sequence[SnapshotDetails],
    *,
    progress: ProgressCallback | None,
) -> None:
    """Delete external snapshots of a machine of vmctl's, and merge the layers that they leave.

    Args:
        domain: The machine.
        seen: It, as it was when this was decided; nobody is at work on it.
        doomed: The snapshots, each after those that it was taken after.
        progress: Told of the one phase, ``delete``.

    Raises:
        ConflictError: Somebody is at work on it, or another machine lies on a layer.
        ResourceError: A pool filled up; the snapshots are gone, and the layers still there.
    """
    _refuse_clones(domain, seen.record, doomed)
    with Reporter(domain.name, progress).phase("delete") as phase:
        _work(domain, seen, phase, doomed)


def merge(domain: Domain, seen: detours.Seen, *, progress: ProgressCallback | None) -> int:
    """Merge all layers that no snapshot needs, as those of a merging that was cut off.

    Returns:
        How many layers there are fewer.
    """
    with Reporter(domain.name, progress).phase("merge") as phase:
        return _work(domain, seen, phase, ())


def settle(domain: Domain) -> None:
    """Bring a machine back from its merging, as far as that has come; no layer is half there.

    Raises:
        WrongStateError: QEMU is at it still, and libvirt has lost it.
    """
    record = domain.record()
    if record is None or record.phase is not Phase.MERGING:
        return
    if domain.is_active():
        for disk in blockjobs.live_disks(domain):
            _end_job(domain, disk.target)
        record = _let_go_on(domain) or record
    elif record.work is not None:
        refuse_lost(domain)
    record = _take_over(domain, record)
    record = _sweep(domain, record, _left_by_forgotten(domain, record))
    detours.end(domain, record)


def _work(
    domain: Domain, seen: detours.Seen, phase: ReportedPhase, doomed: Sequence[SnapshotDetails]
) -> int:
    with claimed(_CLAIM_SECONDS) as claim:
        detours.begin(domain, Phase.MERGING, claim, seen=seen)
        record = domain.record() or seen.record
        with detours.settled_afterwards(domain, settle):
            # Once their snapshots are gone, nothing tells that virsh's layers are the machine's.
            record = domain.update_record(
                volumes=(*record.volumes, *files.made_by_others(domain, record))
            )
            going = files.owned_chain(
                domain, record, [path for entry in doomed for path in entry.files]
            )
            for entry in reversed(doomed):
                backend.forget(domain, entry.facts.name)
            now = domain.record() or record
            now = _sweep(domain, now, [*going, *_left_by_forgotten(domain, now)])
            merged = _merge_layers(domain, phase)
    return merged


def held(
    domain: Domain, record: Record, snapshots: Iterable[SnapshotDetails]
) -> dict[str, tuple[VolumeUser, ...]]:
    """Return who lies on what snapshots hold: other machines, and volumes of nobody's.

    Args:
        domain: The machine.
        record: What vmctl knows of it.
        snapshots: Which; those that nobody else lies on are not in what is returned.
    """
    usage = read_usage(domain.connection)
    mine = (*record.volumes, *files.made_by_others(domain, record))
    own = {f"{volume.pool}/{volume.name}" for volume in mine}
    found: dict[str, tuple[VolumeUser, ...]] = {}
    for entry in snapshots:
        others: list[VolumeUser] = []
        for disk in entry.disks:
            try:
                volume = at_path(domain.connection, disk.path)
            except NotFoundError:
                continue
            for user in usage.users(volume.pool, volume.name, disk.path):
                if user.kind == "volume" and user.name not in own:
                    others += usage.owners(user) or (user,)
                elif user.kind == "machine" and user.name != domain.name:
                    others.append(user)
        if others:
            found[entry.facts.name] = tuple(sorted(set(others)))
    return found


def _refuse_clones(domain: Domain, record: Record, doomed: Iterable[SnapshotDetails]) -> None:
    """Keep a layer that another machine, or a volume of nobody's, lies on.

    Raises:
        ConflictError: It is so.
    """
    for name, others in held(domain, record, doomed).items():
        machine = next((user.name for user in others if user.kind == "machine"), "NAME")
        raise ConflictError(
            f"the snapshot '{name}' of '{domain.name}' is what "
            f"{', '.join(map(str, others))} lies on",
            hint=f"delete that first, or let it stand alone: `vmctl flatten {machine}`",
        )


# -- layers ---------------------------------------------------------------------------------------


def _merge_layers(domain: Domain, phase: ReportedPhase) -> int:
    """Merge one layer after the other, for as long as there are any."""
    merged = 0
    while (found := _next(domain)) is not None:
        if not domain.is_active():
            phase.update("starting QEMU, its processors paused")
            domain.update_record(woken=True)
            detours.wake(domain)
        _merge_one(domain, found, phase)
        merged += 1
    return merged


def _next(domain: Domain) -> Merge | None:
    record = domain.record()
    if record is None:
        return None
    own: dict[str, OwnedVolume] = _own_paths(domain, record)
    on_top: dict[str, set[str]] = {}
    for pool in {volume.pool for volume in record.volumes}:
        pools.refresh(domain.connection, pool)
    # A clone's disk may lie in any pool.
    for place in pools.list_pools(domain.connection):
        for facts in (
            list_volumes(domain.connection, place.name) if place.state == "running" else ()
        ):
            on_top.setdefault(facts.backing, set()).add(facts.path)
    heads = files.read_heads(domain).snapshots
    for target, chain in _chains(domain).items():
        # What is written to a volume that a person attached belongs into that one in the end.
        below = files.attached_below(domain, record, chain, own)
        into = {below} if below and files.is_file_in_pool(domain, below) else set()
        found = next_merge(target, chain, heads=heads, on_top=on_top, own={*own, *into})
        if found is not None:
            return found
    return None


def _own_paths(domain: Domain, record: Record) -> dict[str, OwnedVolume]:
    return {
        pools.open_pool(domain.connection, volume.pool).path_of(volume.name): volume
        for volume in record.volumes
        if volume.role is Role.DISK
    }


def _chains(domain: Domain) -> dict[str, tuple[str, ...]]:
    """Return the layers of each disk that is written to, the uppermost first."""
    if domain.is_active():
        return {
            disk.target: (disk.path, *disk.layers)
            for disk in blockjobs.live_disks(domain)
            if not disk.read_only
        }
    return {
        disk.target: tuple(
            layer.path for layer in read_chain(domain.connection, disk.path, disk.format)
        )
        for disk in domain.disks()
        if not disk.read_only and disk.path
    }


def _merge_one(domain: Domain, found: Merge, phase: ReportedPhase) -> None:
    what = f"merging a layer of {found.target}"
    phase.update(what, 0.0)
    record = domain.record()
    going = () if record is None else (_own_paths(domain, record)[found.top],)
    domain.update_record(
        work=SnapshotWork(snapshot="", sources={found.target: found.base}, going=going)
    )
    blockjobs.commit(domain, found.target, top=found.top, base=found.base, active=found.active)
    in_time = blockjobs.follow(
        domain, found.target, seconds=_CLAIM_SECONDS, tell=partial(phase.update, what)
    )
    if not in_time:
        raise WaitTimeoutError(
            f"a layer of the disk '{found.target}' of '{domain.name}' was not merged within a day",
            phase="merge",
            hint=f"merge it again: `vmctl snapshot merge {domain.name}`",
        )
    if found.active and blockjobs.facts_of(domain, found.target) is not None:
        _pivot(domain, found.target)
    if found.top in _chains(domain)[found.target]:
        raise _why_not(domain, found)
    if (now := domain.record()) is not None:
        _take_over(domain, now)


def _end_job(domain: Domain, target: str) -> None:
    """Take back a merging that somebody left, or go on to its end where that is the only way."""
    job = blockjobs.facts_of(domain, target)
    if job is None:
        return
    if not job.only_forward:
        blockjobs.abort(domain, target)
    elif blockjobs.follow(domain, target, seconds=_CLAIM_SECONDS, tell=lambda _done: None):
        _pivot(domain, target)


def _pivot(domain: Domain, target: str) -> None:
    """Let the guest go on in the layer underneath, once libvirt has written that down.

    Till then it stands still. A libvirtd that is killed meanwhile can lose its QEMU, and what is
    known is the layer on top: what the guest wrote to the one underneath would be hidden by it.
    """
    record = domain.record()
    if record is None or record.work is None or domain.state() is not State.RUNNING:
        blockjobs.pivot(domain, target)
        return
    domain.update_record(work=replace(record.work, suspended=True))
    try:
        domain.suspend()
        blockjobs.pivot(domain, target)
    finally:
        with being_undone():
            outlasting(lambda: _let_go_on(domain))


def _let_go_on(domain: Domain) -> Record | None:
    """Let a guest that stands still for a merging go on; returns the machine's record then."""
    record = domain.record()
    if record is None or record.work is None or not record.work.suspended:
        return record
    if domain.state() is State.PAUSED:
        domain.resume()
    return domain.update_record(work=replace(record.work, suspended=False))


def _why_not(domain: Domain, found: Merge) -> ResourceError | HypervisorError:
    hint = f"then `vmctl snapshot merge {domain.name}` goes on; nothing of the machine is lost"
    volume = at_path(domain.connection, found.base)
    available = pools.left_when_full(domain.connection, volume.pool)
    if available is not None:
        return ResourceError(
            f"the pool '{volume.pool}' filled up while a layer of the disk '{found.target}' of "
            f"'{domain.name}' was merged",
            details=f"{available} bytes are free",
            hint=f"make room there, {hint}",
        )
    return HypervisorError(
        f"QEMU ended the merging of a layer of the disk '{found.target}' of '{domain.name}' "
        "before it was done",
        hint=f"see QEMU's log on the host, /var/log/libvirt/qemu; {hint}",
    )


def _take_over(domain: Domain, record: Record) -> Record:
    """Finish a merge that QEMU has finished: snapshots of the layer go back to what it lies in.

    One that was cut off leaves all as it was, but for what nobody sees of the file underneath.
    """
    work = record.work
    if work is None:
        return record
    chains = _chains(domain)
    for volume in work.going:
        top = pools.open_pool(domain.connection, volume.pool).path_of(volume.name)
        for target, base in work.sources.items():
            chain = chains.get(target, ())
            if base in chain and top not in chain:
                _lead_snapshots(domain, top, base)
                record = _sweep(domain, record, [volume])
    return domain.update_record(work=None)


def _lead_snapshots(domain: Domain, top: str, base: str) -> None:
    """Let the snapshots that name a merged layer name the file that it was merged into."""
    volume = at_path(domain.connection, base)
    pools.refresh(domain.connection, volume.pool)
    for entry in backend.list_details(domain):
        if top in entry.files:
            # As what is merged had it, and not what a raw disk looks like.
            above = at_path(domain.connection, top)
            form = above.format_underneath() or volume.facts().format
            text = backend.xml_of(domain, entry.facts.name)
            root = led(etree.fromstring(text), top=top, base=base, form=form)
            backend.redefine(
                domain, etree.tostring(root, encoding="unicode"), current=entry.facts.current
            )


# -- files ----------------------------------------------------------------------------------------


def _left_by_forgotten(domain: Domain, record: Record) -> list[OwnedVolume]:
    """Return the memories and variables of snapshots that there are not any more."""
    names = [entry.name for entry in backend.list_snapshots(domain)]
    kept = {make(domain, name) for name in names for make in (memory_name, variables_name)}
    roles = {Role.SNAPSHOT_MEMORY, Role.SNAPSHOT_NVRAM}
    return [volume for volume in record.volumes if volume.role in roles and volume.name not in kept]


def _sweep(domain: Domain, record: Record, candidates: Iterable[OwnedVolume]) -> Record:
    """Delete what nothing needs any more of a machine's volumes, and correct its record."""
    found = list(candidates)
    if not found:
        return record
    gone = set(files.sweep(domain, found))
    return domain.update_record(
        volumes=tuple(volume for volume in record.volumes if volume not in gone)
    )
