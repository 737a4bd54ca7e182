"""The end of a machine: everything that its record lists, and then the machine itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from vmctl import bases, group_members, nic_filters
from vmctl.errors import (
    ConflictError,
    HostUnavailableError,
    NotFoundError,
    RollbackError,
    VmctlError,
    WrongStateError,
)
from vmctl.guest.agent import Agent
from vmctl.hypervisor import backups, networks, reservations, uploads
from vmctl.hypervisor.chains import read_chain
from vmctl.hypervisor.claims import Claim, claimed
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.image_names import list_names
from vmctl.hypervisor.metadata import OwnedVolume, Phase, Record, Role
from vmctl.hypervisor.names import Listed, find, list_domains
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.hypervisor.usage import read_usage
from vmctl.hypervisor.volumes import StoredVolume, list_volumes
from vmctl.snapshotting.files import attached_below, is_file_in_pool, made_by_others

__all__ = [
    "refuse_lain_on",
    "refuse_unmerged",
    "releasable_bases",
    "releasable_networks",
    "remove_machine",
]

# Longer than the removal of anything takes.
_CLAIM_SECONDS = 600.0


def refuse_lain_on(domain: Domain, record: Record) -> None:
    """Refuse to remove a machine while disks of another, a linked clone, lie on its own.

    Raises:
        ConflictError: They do.
    """
    places = {
        open_pool(domain.connection, volume.pool).path_of(volume.name): volume
        for volume in record.volumes
        if volume.role is Role.DISK
    }
    tops = {disk.path for disk in domain.disks()}
    if places.keys() <= tops:
        # What it writes to itself is under nobody else.
        return
    # What virsh made for a snapshot of it is in no record, and the machine's all the same.
    mine = (*record.volumes, *made_by_others(domain, record))
    own = {f"{volume.pool}/{volume.name}" for volume in mine}
    usage = read_usage(domain.connection)
    lying = {
        user.name
        for path, volume in places.items()
        for user in usage.users(volume.pool, volume.name, path)
        if user.kind == "volume" and user.name not in own
    }
    if not lying:
        return
    owners = {
        f"{volume.pool}/{volume.name}": f"the machine '{other.domain.name}'"
        for other in _others(domain)
        if other.record is not None
        for volume in other.record.volumes
    }
    names = sorted({owners.get(name, f"the volume '{name}'") for name in lying})
    raise ConflictError(
        f"on the disks of '{domain.name}' lies what {' and '.join(names)} needs",
        hint="delete that first; or make it stand alone: `vmctl flatten`",
    )


def refuse_unmerged(domain: Domain, record: Record) -> None:
    """Refuse to remove a machine while what was written to a person's own volume is in its layers.

    Raises:
        ConflictError: Snapshots froze such a volume, and the layers on top would go.
    """
    own = {
        open_pool(domain.connection, volume.pool).path_of(volume.name)
        for volume in record.volumes
        if volume.role is Role.DISK
    }
    for disk in domain.disks():
        if disk.path not in own:
            continue
        chain = [layer.path for layer in read_chain(domain.connection, disk.path, disk.format)]
        path = attached_below(domain, record, chain, own)
        if path:
            merges = is_file_in_pool(domain, path)
            raise ConflictError(
                f"what '{domain.name}' wrote to {path} since its first snapshot lies in layers "
                "that would go with it",
                hint=f"delete its snapshots first: `vmctl snapshot list {domain.name}`; "
                + (
                    "that merges them"
                    if merges
                    else f"then detach {disk.target}: its uppermost layer stays as a volume"
                ),
            )


def remove_machine(domain: Domain, record: Record) -> None:
    """Remove a machine of vmctl's with all that it owns.

    If its launch never succeeded, an image that it uploaded goes too, and a network that it started
    is stopped again, unless somebody else came to use them.

    The definition goes last: until then `gc` can go on where this stops.

    Raises:
        RollbackError: Something could not be removed; ``left`` names it, and the machine stays
            defined, marked as being deleted.
        HostUnavailableError: The host went away meanwhile; it can be called again.
    """
    with claimed(_CLAIM_SECONDS) as claim:
        _remove(domain, record, claim)


def _remove(domain: Domain, record: Record, claim: Claim) -> None:
    try:
        # Before the snapshots go that name them.
        volumes = (*record.volumes, *made_by_others(domain, record))
        record = domain.update_record(phase=Phase.DELETING, claim=claim, volumes=volumes)
        domain.destroy()
    except NotFoundError:
        # Somebody else removed the definition; what it owned is still to be removed.
        pass
    # They name its addresses, which are somebody else's as soon as they are free.
    in_rules = _leave_groups(domain, record)
    steps: list[tuple[str, Callable[[], object]]] = []
    if record.copied_from:
        what = "the copying of its source's disks"
        steps.append((what, partial(_let_go_of_source, domain, record)))
    steps += [
        (str(entry), partial(reservations.release, domain, entry)) for entry in record.addresses
    ]
    steps += [
        (
            f"the volume '{volume.name}' in the pool '{volume.pool}'",
            partial(_remove_volume, domain, volume),
        )
        for volume in record.volumes
    ]
    steps += [
        (
            f"the image '{image}' in the pool '{pool}'",
            partial(_remove_image, domain, record, (pool, image)),
        )
        for pool, image in releasable_bases(domain, record)
    ]
    steps += [
        (
            f"the network '{name}', which was started",
            partial(networks.stop_unused, domain.connection, name),
        )
        for name in releasable_networks(domain, record)
    ]
    failed: dict[str, VmctlError] = {}
    for what, remove in steps:
        try:
            remove()
        except HostUnavailableError:
            # Nothing more can be done now; all of it can be done again.
            raise
        except VmctlError as error:
            failed[what] = error
    if failed:
        raise RollbackError(
            f"could not remove all of the machine '{domain.name}'",
            left=tuple(failed),
            details="\n".join(
                f"{what}: {error.details or error.brief}" for what, error in failed.items()
            ),
            hint="mend the cause and run `vmctl gc`",
        ) from next(iter(failed.values()))
    with suppress(NotFoundError):
        domain.undefine()
    if nic_filters.is_filtered(record.spec):
        nic_filters.forget_unused(domain.connection)
    if in_rules is not None:
        # No reason to keep the machine: `gc` corrects rules.
        raise in_rules


def _leave_groups(domain: Domain, record: Record) -> VmctlError | None:
    """Let rules name its addresses no more; returns why that can't be, for who is told at last."""
    try:
        group_members.refresh(domain.connection, group_members.groups_of(record.spec))
    except HostUnavailableError:
        raise
    except VmctlError as error:
        return error
    return None


def _let_go_of_source(domain: Domain, record: Record) -> None:
    """End what a clone's making may have left under way in the machine that it is of."""
    paths = frozenset(
        open_pool(domain.connection, volume.pool).path_of(volume.name)
        for volume in record.volumes
        if volume.role is Role.DISK
    )
    try:
        source = find(domain.connection, record.copied_from)
        if backups.writes_to(source, paths):
            backups.abort(source)
        if record.froze:
            Agent(source).ask("guest-fsfreeze-thaw")
    except (NotFoundError, WrongStateError):
        # One that is off, or gone, has nothing under way, and nothing frozen any more.
        return


def _remove_image(domain: Domain, record: Record, base: tuple[str, str]) -> None:
    try:
        pool = open_pool(domain.connection, base[0])
    except NotFoundError:
        return
    with claimed(_CLAIM_SECONDS) as claim, bases.being_removed(pool, base[1], claim):
        # Whoever needs it from here on waits, so who uses it is seen only now.
        if base in releasable_bases(domain, record) and not _is_wanted(domain, pool, base[1]):
            StoredVolume.of(pool, base[1]).delete()


def _is_wanted(domain: Domain, pool: Pool, base: str) -> bool:
    """Return whether an image got a name meanwhile, or a disk that no record knows of."""
    digest = bases.digest_of(base)
    if any(entry.digest == digest for entry in list_names(pool)):
        return True
    going = {
        (volume.pool, volume.name)
        for other in _others(domain)
        if other.record is not None and other.record.phase is Phase.DELETING
        for volume in other.record.volumes
    }
    path = pool.path_of(base)
    return any(
        volume.backing == path and (pool.name, volume.name) not in going
        for volume in list_volumes(pool.connection, pool.name)
    )


def _remove_volume(domain: Domain, volume: OwnedVolume) -> None:
    try:
        pool = open_pool(domain.connection, volume.pool)
    except NotFoundError:
        return
    if volume.role in {Role.NVRAM, Role.SNAPSHOT_MEMORY}:
        # libvirt made it, and its pool may not have seen it yet. Where it can't look
        # now, the file goes with the definition.
        pool.refresh()
    StoredVolume.of(pool, volume.name).delete()
    if volume.role is Role.CONSOLE_LOG:
        # virtlogd keeps a long log's older parts beside it, as NAME.0, NAME.1 ...
        older = f"{volume.name}."
        pool.refresh()
        for name in pool.names():
            if name.startswith(older) and name[len(older) :].isdigit():
                StoredVolume.of(pool, name).delete()


def releasable_bases(domain: Domain, record: Record) -> list[tuple[str, str]]:
    """Return (pool, volume) of the images that go with a machine whose launch never succeeded.

    Those are the ones that its launch brought, and those that nobody ever finished uploading.
    What another machine came to use is left out, but for one that is being removed itself.
    """
    if (
        record.phase is Phase.READY
        or record.phase.is_detour
        or not (record.brought or record.bases)
    ):
        return []
    others = _others(domain)
    if not all(other.readable for other in others):
        # What that one uses is not known.
        return []
    used = {
        base
        for other in others
        if other.record is not None and other.record.phase is not Phase.DELETING
        for base in other.record.bases
    }
    return [
        base
        for base in dict.fromkeys((*record.brought, *record.bases))
        if bases.is_base(base[1])
        and base not in used
        and (base in record.brought or _is_unfinished(domain, base))
    ]


def _is_unfinished(domain: Domain, base: tuple[str, str]) -> bool:
    try:
        pool = open_pool(domain.connection, base[0])
    except NotFoundError:
        return False
    image = StoredVolume.of(pool, base[1])
    if not image.exists() or bases.is_complete(pool, image.name):
        return False
    # One that is pulled or imported is in no record; that it is being brought is noted beside it.
    return not uploads.is_marked(image)


def releasable_networks(domain: Domain, record: Record) -> tuple[str, ...]:
    """Return the networks that this machine's launch started and that no other came to use."""
    if not record.started_networks:
        return ()
    used: set[str] = set()
    for other in _others(domain):
        if other.record is not None and other.record.phase is Phase.DELETING:
            continue
        waits = other.record is not None and other.record.claim is not None
        if other.state is not State.SHUT_OFF or waits or not other.readable:
            # It may go away meanwhile, and then it uses none.
            with suppress(NotFoundError):
                used.update(other.domain.networks())
    return tuple(name for name in record.started_networks if name not in used)


def _others(domain: Domain) -> list[Listed]:
    return [other for other in list_domains(domain.connection) if other.domain.uuid != domain.uuid]
