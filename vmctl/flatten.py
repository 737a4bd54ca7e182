"""A machine's disks made independent of what lies underneath them, in place.

QEMU does it, also for a machine that is off: it is started for that with its processors paused. So
there is one way and not two, no second copy needs room, and whatever is cut off when, the disk is
whole: until its very last step it lies on its base. A copy made by the pool could be started in the
middle by somebody else, and would miss what that guest wrote.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from vmctl import detours
from vmctl.errors import (
    ConflictError,
    HypervisorError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    WaitTimeoutError,
)
from vmctl.hypervisor import blockjobs, pools, snapshots
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.metadata import Phase, Record, SnapshotWork
from vmctl.hypervisor.volumes import StoredVolume, at_path
from vmctl.progress import Phase as ReportedPhase
from vmctl.progress import ProgressCallback, Reporter, being_undone

__all__ = ["flatten", "images_still_under", "settle"]

# Longer than the copying of any disk takes.
_CLAIM_SECONDS = 86400.0


def flatten(
    domain: Domain, record: Record, target: str | None, *, progress: ProgressCallback | None
) -> tuple[str, ...]:
    """Make disks of a machine of vmctl's stand alone; see `VM.flatten`.

    Args:
        domain: The machine.
        record: What vmctl knows of it.
        target: Which disk, ``vda``; None for all that lie on something.
        progress: Told of the one phase, ``flatten``.

    Returns:
        The disks that lay on something, and don't any more.
    """
    record = _free_record(domain, record)
    layers = _layers_of(domain, target)
    if not any(layers.values()):
        _let_go_of_images(domain, record)
        return ()
    _refuse_snapshots(domain)
    _refuse_without_room(domain, layers)
    with (
        Reporter(domain.name, progress).phase("flatten") as phase,
        claimed(_CLAIM_SECONDS) as claim,
    ):
        woken = detours.begin(domain, Phase.FLATTENING, claim, wakes=True)
        with detours.settled_afterwards(domain, settle):
            if woken:
                phase.update("starting QEMU, its processors paused")
                detours.wake(domain)
            done = tuple(
                disk.target
                for disk in blockjobs.live_disks(domain)
                if disk.target in layers and _make_alone(domain, disk, phase)
            )
            _note_in_spec(domain, done)
    return done


def settle(domain: Domain) -> None:
    """Bring a machine back to where it was before it was flattened, as far as that has come.

    A job under way is ended, QEMU too if it was started for that alone. What is flat stays flat,
    and images that nothing of the machine lies on any more are not in its record any more.
    """
    record = domain.record()
    if record is None or record.phase is not Phase.FLATTENING:
        return
    if domain.is_active():
        for disk in blockjobs.live_disks(domain):
            if blockjobs.facts_of(domain, disk.target) is not None:
                blockjobs.abort(domain, disk.target)
    record = _let_go_on(domain, record)
    detours.end(domain, record, bases=images_still_under(domain, record))


def _free_record(domain: Domain, record: Record) -> Record:
    """Return the record of a machine that nobody is at work on.

    Raises:
        ConflictError: Somebody is, or it is not whole.
    """
    if record.phase is Phase.FLATTENING and record.claim is not None:
        if not record.claim.is_abandoned():
            raise ConflictError(
                f"somebody is flattening the disks of '{domain.name}' already",
                hint="wait until that has ended",
            )
        settle(domain)
        record = domain.record() or record
    detours.refuse_work_in_progress(domain, record)
    return record


def _layers_of(domain: Domain, target: str | None) -> dict[str, tuple[str, ...]]:
    """Return what lies underneath each disk, or underneath the one that is asked for.

    Raises:
        NotFoundError: It has no such disk.
        UnsupportedError: That disk can't be written to.
    """
    if domain.is_active():
        live = blockjobs.live_disks(domain)
        found = {disk.target: disk.layers for disk in live if not disk.read_only}
        fixed = {disk.target for disk in live if disk.read_only}
    else:
        disks = domain.disks()
        found = {disk.target: _layers_at(domain, disk.path) for disk in disks if not disk.read_only}
        fixed = {disk.target for disk in disks if disk.read_only}
    if target is None:
        return found
    if target in fixed:
        raise UnsupportedError(
            f"the disk '{target}' of '{domain.name}' is read-only, so it can't be flattened",
            hint="`vmctl volume clone` makes a copy of its volume that stands alone",
        )
    if target not in found:
        raise NotFoundError(
            f"'{domain.name}' has no disk '{target[:40]}'",
            hint=f"it has {', '.join(found)}" if found else "it has no disks at all",
        )
    return {target: found[target]}


def _layers_at(domain: Domain, path: str) -> tuple[str, ...]:
    """Return what lies underneath a volume that nothing runs on, as far as pools know it."""
    layers: list[str] = []
    while path not in layers:
        try:
            volume = at_path(domain.connection, path)
            # libvirt reads a header only when it looks through the pool.
            pools.refresh(domain.connection, volume.pool)
            path = volume.facts().backing
        except NotFoundError:
            break
        if not path:
            break
        layers.append(path)
    return tuple(layers)


def _refuse_snapshots(domain: Domain) -> None:
    if found := snapshots.list_snapshots(domain):
        raise ConflictError(
            f"'{domain.name}' has snapshots, which need the image underneath: "
            f"{', '.join(entry.name for entry in found)}",
            hint="delete them first, or make a full copy: `vmctl volume clone`",
        )


def _refuse_without_room(domain: Domain, layers: dict[str, tuple[str, ...]]) -> None:
    """Say beforehand that a pool is too full, which would halt all guests that write to it.

    How much of an image a disk has of its own, and how far a compressed one grows, is not known:
    this is what it takes at least.
    """
    needed: dict[str, int] = {}
    for disk in domain.disks():
        if not layers.get(disk.target):
            continue
        try:
            own = at_path(domain.connection, disk.path)
        except NotFoundError:
            continue
        below = sum(_allocation(domain, path) for path in layers[disk.target])
        missing = below - own.facts().allocation
        needed[own.pool] = needed.get(own.pool, 0) + max(missing, 0)
    for pool, size in needed.items():
        pools.refresh(domain.connection, pool)
        available = pools.facts_of(domain.connection, pool).available
        if available < size:
            raise ResourceError(
                f"the pool '{pool}' has no room for what lies underneath the disks of "
                f"'{domain.name}': it takes at least {size} bytes, and {available} are free",
                hint="remove what is not needed, or flatten one disk only",
            )


def _allocation(domain: Domain, path: str) -> int:
    try:
        return at_path(domain.connection, path).facts().allocation
    except NotFoundError:
        return 0


def _make_alone(domain: Domain, disk: blockjobs.LiveDisk, phase: ReportedPhase) -> bool:
    """Copy into a disk what lies underneath it; returns whether there was anything."""
    if not disk.layers:
        return False
    phase.update(f"copying into {disk.target}", 0.0)
    blockjobs.pull(domain, disk.target)
    in_time = blockjobs.follow(
        domain,
        disk.target,
        seconds=_CLAIM_SECONDS,
        tell=partial(phase.update, f"copying into {disk.target}"),
    )
    if not in_time:
        raise WaitTimeoutError(
            f"the disk '{disk.target}' of '{domain.name}' was not flat within a day",
            phase="flatten",
            hint="flatten it again: it goes on where this one stopped",
        )
    if any(now.target == disk.target and now.layers for now in blockjobs.live_disks(domain)):
        raise _why_not(domain, disk)
    _write_down(domain)
    _refresh_pool_of(domain, disk.path)
    return True


def _write_down(domain: Domain) -> None:
    """Let QEMU write down where in the disk everything is.

    The disk has let go of what lay underneath; but the tables of a qcow2 file stay in QEMU's memory
    until it is told to flush them, and a guest that writes nothing does not. If QEMU were killed,
    all that was copied would be lost. It flushes when its processors are stopped.
    """
    if domain.state() is not State.RUNNING:
        # Stopped already: it ends in good order, or somebody lets it run and writes.
        return
    record = domain.update_record(work=SnapshotWork(snapshot="", suspended=True))
    try:
        domain.suspend()
    finally:
        with being_undone():
            outlasting(lambda: _let_go_on(domain, record))


def _let_go_on(domain: Domain, record: Record) -> Record:
    """Let a guest that was stopped by `_write_down` go on; returns the machine's record then."""
    if record.work is None or not record.work.suspended:
        return record
    if domain.state() is State.PAUSED:
        domain.resume()
    return domain.update_record(work=None)


def _why_not(domain: Domain, disk: blockjobs.LiveDisk) -> ResourceError | HypervisorError:
    # libvirt says that a job failed, and not why.
    volume = _refresh_pool_of(domain, disk.path)
    if volume is not None:
        available = pools.left_when_full(domain.connection, volume.pool)
        if available is not None:
            return ResourceError(
                f"the pool '{volume.pool}' filled up while the disk '{disk.target}' of "
                f"'{domain.name}' was flattened; it still lies on its image",
                details=f"{available} bytes are free",
                hint="make room there, and flatten it again",
            )
    return HypervisorError(
        f"QEMU ended the flattening of the disk '{disk.target}' of '{domain.name}' before it was "
        "done; it still lies on its image",
        hint="somebody ended it, or QEMU's log on the host says why: /var/log/libvirt/qemu",
    )


def _refresh_pool_of(domain: Domain, path: str) -> StoredVolume | None:
    """Let libvirt see that a disk's header is another one now; returns its volume."""
    try:
        volume = at_path(domain.connection, path)
    except NotFoundError:
        return None
    pools.refresh(domain.connection, volume.pool)
    return volume


def images_still_under(domain: Domain, record: Record) -> tuple[tuple[str, str], ...]:
    """Return the images in a record that any disk, or drive, of the machine still lies on."""
    if domain.is_active():
        below = {path for disk in blockjobs.live_disks(domain) for path in disk.layers}
    else:
        below = {path for disk in domain.disks() for path in _layers_at(domain, disk.path)}
    return tuple(
        (pool, name)
        for pool, name in record.bases
        if pools.open_pool(domain.connection, pool).path_of(name) in below
    )


def _let_go_of_images(domain: Domain, record: Record) -> None:
    """Correct a record whose disks were made to stand alone by another program."""
    kept = images_still_under(domain, record)
    if kept != record.bases:
        domain.update_record(bases=kept)


def _note_in_spec(domain: Domain, done: tuple[str, ...]) -> None:
    """Let the recorded spec say that clones of images stand alone now."""
    record = domain.record()
    if record is None:
        return
    # `gc` asks of every host whether somebody died in here, and needs neither.
    from vmctl.render.domain import disk_targets  # noqa: PLC0415
    from vmctl.spec import VMSpec  # noqa: PLC0415

    spec = VMSpec.from_record(record.spec)
    disks: list[Any] = [dict(disk) for disk in record.spec.get("disks") or ()]
    for number, target in enumerate(disk_targets(spec)):
        image = disks[number].get("image") or (record.spec.get("image") if number == 0 else None)
        if target in done and image and not disks[number].get("volume"):
            disks[number]["full_clone"] = True
    changed = {**record.spec, "disks": disks}
    if changed != record.spec:
        domain.write_record(replace(record, spec=changed))
