"""The end of a machine: everything that its record lists, and then the machine itself."""

from __future__ import annotations

from contextlib import suppress

from vmctl import images
from vmctl.errors import NotFoundError, RollbackError, VmctlError
from vmctl.hypervisor import networks
from vmctl.hypervisor.claims import Claim, claimed
from vmctl.hypervisor.domains import Domain, State, list_domains
from vmctl.hypervisor.metadata import OwnedVolume, Phase, Record, Role
from vmctl.hypervisor.storage import open_pool

__all__ = ["releasable_bases", "releasable_networks", "remove_machine"]

# Longer than the removal of anything takes.
_CLAIM_SECONDS = 600.0


def remove_machine(domain: Domain, record: Record) -> None:
    """Remove a machine of vmctl's with all that it owns.

    If its launch never succeeded, an image that it uploaded goes too, and a network that it started
    is stopped again, unless somebody else came to use them.

    The definition goes last: until then `gc` can go on where this stops.

    Raises:
        RollbackError: Something could not be removed; ``left`` names it, and the machine stays
            defined, marked as being deleted.
    """
    with claimed(_CLAIM_SECONDS) as claim:
        _remove(domain, record, claim)


def _remove(domain: Domain, record: Record, claim: Claim) -> None:
    try:
        domain.update_record(phase=Phase.DELETING, claim=claim)
        domain.destroy()
    except NotFoundError:
        # Somebody else removed the definition; what it owned is still to be removed.
        pass
    left, causes = [], []
    for volume in record.volumes:
        try:
            _remove_volume(domain, volume)
        except VmctlError as error:
            left.append(f"the volume '{volume.name}' in the pool '{volume.pool}'")
            causes.append(error)
    if causes:
        raise RollbackError(
            f"could not remove all of the machine '{domain.name}'",
            left=left,
            details="\n".join(
                f"{what}: {error.details or error.brief}"
                for what, error in zip(left, causes, strict=True)
            ),
            hint="mend the cause and run `vmctl gc`",
        ) from causes[0]
    for pool, image in releasable_bases(domain, record):
        open_pool(domain.connection, pool).delete(image)
    for network in releasable_networks(domain, record):
        networks.stop(domain.connection, network)
    try:
        domain.undefine()
    except NotFoundError:
        return


def _remove_volume(domain: Domain, volume: OwnedVolume) -> None:
    try:
        pool = open_pool(domain.connection, volume.pool)
    except NotFoundError:
        return
    pool.delete(volume.name)
    if volume.role is Role.CONSOLE_LOG:
        # virtlogd keeps a long log's older parts beside it, as NAME.0, NAME.1 ...
        older = f"{volume.name}."
        pool.refresh()
        for name in pool.volumes():
            if name.startswith(older) and name[len(older) :].isdigit():
                pool.delete(name)


def releasable_bases(domain: Domain, record: Record) -> list[tuple[str, str]]:
    """Return (pool, volume) of the images that only this machine's launch brought.

    Those that another machine came to use are left out.
    """
    used = {
        base
        for other, _state, its in list_domains(domain.connection)
        if other.uuid != domain.uuid and its is not None
        for base in its.bases
    }
    return [base for base in record.brought if images.is_base(base[1]) and base not in used]


def releasable_networks(domain: Domain, record: Record) -> tuple[str, ...]:
    """Return the networks that this machine's launch started and that no other came to use."""
    if not record.started_networks:
        return ()
    used: set[str] = set()
    for other, state, its in list_domains(domain.connection):
        at_work = state is not State.SHUT_OFF or (its is not None and its.claim is not None)
        if other.uuid != domain.uuid and at_work:
            # It may go away meanwhile, and then it uses none.
            with suppress(NotFoundError):
                used.update(other.networks())
    return tuple(name for name in record.started_networks if name not in used)
