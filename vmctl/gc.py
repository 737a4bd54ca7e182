"""What killed clients left: found by their records, shown, and removed. Nothing else is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmctl import backup_traces, bases, changes, group_members, nic_filters, settling
from vmctl.errors import NotFoundError, RollbackError, VmctlError
from vmctl.hypervisor import uploads
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record
from vmctl.hypervisor.names import list_domains
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.hypervisor.usage import read_usage
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.networking import leftovers as half_networks
from vmctl.removal import releasable_bases, releasable_networks, remove_machine
from vmctl.snapshotting import lending
from vmctl.snapshotting import settling as snapshotting

__all__ = ["Leftover", "collect"]

_CLONING = "cloning"
_FILTERING = "filtering"
_NETWORK = "creating-network"


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A machine, a volume or a network, that somebody was at work on who is not there any more.

    Attributes:
        name: The machine's name, ``POOL/NAME`` of the volume, or the network's name.
        uuid: The machine's UUID; empty for a volume or a network.
        phase: What was being done: ``creating``, ``provisioning``, ``deleting``, ``uploading`` a
            volume, ``creating-network``, ``dumping`` a machine's memory into one, ``backing-up`` a
            machine, ``filtering`` for a packet filter that no machine has, or ``removing`` an
            image, which stays; only the note that it is going goes. Of
            ``flattening`` only the work ends, of ``cloning`` only a snapshot goes, of
            ``changing``, ``snapshotting`` and ``reverting`` only what was made for it goes, if it
            was not done: the machine stays.
        client: The host name of the client that was at work.
        volumes: ``POOL/NAME`` of the volumes that go with it, those of images that only it brought
            included; some may never have existed.
        networks: The networks that its launch started and that are stopped again, unless another
            machine uses them by then; or the one whose making was cut off, which goes.
        snapshots: The snapshots of it that go, which were taken for clones that were not made.
        addresses: The addresses that networks keep for it and that are free again afterwards.
    """

    name: str
    uuid: str
    phase: str
    client: str
    volumes: tuple[str, ...]
    networks: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def collect(connection: Connection, *, dry_run: bool) -> list[Leftover]:
    """Remove what killed clients left.

    Args:
        connection: The host.
        dry_run: Only look.

    Returns:
        What was found.

    Raises:
        RollbackError: Something could not be removed; all that could be was.
    """
    found: list[Leftover] = []
    failures: list[VmctlError] = []
    _collect_notes(connection, uploads.REMOVING, found, failures, dry_run=dry_run)
    for listed in list_domains(connection):
        if not _is_abandoned(listed.record):
            continue
        try:
            # Its client may have come to its end since it was listed.
            record = listed.domain.record()
            if record is None or not _is_abandoned(record):
                continue
            found.append(_leftover(listed.domain, record))
            if dry_run:
                continue
            if record.phase.is_detour:
                settling.settle(listed.domain, record)
            else:
                remove_machine(listed.domain, record)
        except NotFoundError:
            continue
        except VmctlError as error:
            failures.append(error)
    _collect_loans(connection, found, failures, dry_run=dry_run)
    _collect_changes(connection, found, failures, dry_run=dry_run)
    _collect_networks(connection, found, failures, dry_run=dry_run)
    for kind in (uploads.UPLOADING, uploads.DUMPING, backup_traces.KIND):
        _collect_notes(connection, kind, found, failures, dry_run=dry_run)
    _correct_groups(connection, failures, dry_run=dry_run)
    _collect_filters(connection, found, failures, dry_run=dry_run)
    if failures:
        raise _together(failures)
    return found


def _correct_groups(connection: Connection, failures: list[VmctlError], *, dry_run: bool) -> None:
    """Let rules name who is in a group now, and not who left it when a client was killed."""
    if dry_run:
        return
    try:
        groups = {spec.name for spec in group_members.read_groups(connection)}
        group_members.refresh(connection, groups)
    except VmctlError as error:
        failures.append(error)


def _collect_filters(
    connection: Connection, found: list[Leftover], failures: list[VmctlError], *, dry_run: bool
) -> None:
    """Remove packet filters whose machines are gone."""
    try:
        names = (nic_filters.unused if dry_run else nic_filters.forget_unused)(connection)
    except VmctlError as error:
        failures.append(error)
        return
    found += [
        Leftover(name=name, uuid="", phase=_FILTERING, client="", volumes=()) for name in names
    ]


def _collect_loans(
    connection: Connection, found: list[Leftover], failures: list[VmctlError], *, dry_run: bool
) -> None:
    """Delete snapshots that were taken for clones that were not made; the machines stay."""
    for listed in list_domains(connection):
        record = listed.record
        if record is None or not record.lent or record.claim is not None:
            continue
        try:
            found += [
                Leftover(
                    name=listed.domain.name,
                    uuid=listed.domain.uuid,
                    phase=_CLONING,
                    client=loan.claim.client,
                    volumes=(),
                    snapshots=(loan.snapshot,),
                )
                for loan in lending.abandoned(listed.domain, record)
            ]
            if not dry_run:
                lending.settle(listed.domain, record)
        except NotFoundError:
            continue
        except VmctlError as error:
            failures.append(error)


def _collect_changes(
    connection: Connection, found: list[Leftover], failures: list[VmctlError], *, dry_run: bool
) -> None:
    """Settle changes of machines whose clients are gone; the machines stay."""
    for listed in list_domains(connection):
        record = listed.record
        if record is None or record.claim is not None:
            continue
        try:
            gone = changes.unneeded_addresses(listed.domain, record)
            if record.pending is None and not gone:
                continue
            if changes.is_being_changed(listed.domain, record):
                continue
            found.append(_half_change(listed.domain, record, gone))
            if not dry_run:
                changes.settle(listed.domain)
        except NotFoundError:
            continue
        except VmctlError as error:
            failures.append(error)
    for note in uploads.list_notes(connection, kind=changes.KIND):
        if not dry_run and note.left_by() is not None:
            uploads.unmark(note.volume, kind=changes.KIND)


def _collect_networks(
    connection: Connection, found: list[Leftover], failures: list[VmctlError], *, dry_run: bool
) -> None:
    """Remove networks that were being made, and that libvirt does not keep."""
    try:
        for left in half_networks.abandoned(connection):
            client = "" if left.claim is None else left.claim.client
            found.append(
                Leftover(
                    name=left.name,
                    uuid="",
                    phase=_NETWORK,
                    client=client,
                    volumes=(),
                    networks=(left.name,),
                )
            )
            if not dry_run:
                half_networks.remove(connection, left)
    except VmctlError as error:
        failures.append(error)


def _half_change(domain: Domain, record: Record, gone: Sequence[ReservedAddress]) -> Leftover:
    made = None if record.pending is None else record.pending.made
    return Leftover(
        name=domain.name,
        uuid=domain.uuid,
        phase=changes.KIND,
        client="",
        volumes=() if made is None else (f"{made.pool}/{made.name}",),
        addresses=tuple(entry.address for entry in gone),
    )


def _collect_notes(
    connection: Connection,
    kind: str,
    found: list[Leftover],
    failures: list[VmctlError],
    *,
    dry_run: bool,
) -> None:
    for note in uploads.list_notes(connection, kind=kind):
        try:
            client = note.left_by()
            if client is None:
                continue
            goes = _what_goes(connection, note)
            if goes is not None:
                found.append(_half_done(note, client, goes))
            if dry_run:
                continue
            if kind == backup_traces.KIND:
                backup_traces.settle_note(note)
                continue
            if goes is not None:
                goes.delete()
            uploads.unmark(note.volume, kind=kind)
        except VmctlError as error:
            failures.append(error)


def _what_goes(connection: Connection, note: uploads.Note) -> StoredVolume | None:
    """Return the volume that a note leads to and that is of no use; None for nothing but itself."""
    if note.kind == uploads.REMOVING:
        return note.own
    return None if _is_anothers_image(connection, note.volume) else note.volume


def _is_anothers_image(connection: Connection, volume: StoredVolume) -> bool:
    """Return whether an image is whole, or a launch that has it in its record sees to it."""
    if not bases.is_base(volume.name):
        return False
    pool = open_pool(connection, volume.pool)
    return bases.is_complete(pool, volume.name) or bool(
        bases.users_of(read_usage(connection), pool, bases.digest_of(volume.name))
    )


def _half_done(note: uploads.Note, client: str, goes: StoredVolume) -> Leftover:
    return Leftover(
        name=f"{note.volume.pool}/{note.volume.name}",
        uuid="",
        phase=note.kind,
        client=client,
        volumes=(f"{goes.pool}/{goes.name}",),
    )


def _is_abandoned(record: Record | None) -> bool:
    return record is not None and record.claim is not None and record.claim.is_abandoned()


def _together(failures: list[VmctlError]) -> VmctlError:
    if len(failures) == 1:
        return failures[0]
    return RollbackError(
        f"{len(failures)} leftovers could not be removed",
        left=tuple(
            what
            for failure in failures
            if isinstance(failure, RollbackError)
            for what in failure.left
        ),
        details="\n".join(str(failure) for failure in failures),
        hint="mend the causes and run `vmctl gc` again",
    )


def _leftover(domain: Domain, record: Record) -> Leftover:
    if record.phase.is_detour:
        return Leftover(
            name=domain.name,
            uuid=domain.uuid,
            phase=record.phase.value,
            client="" if record.claim is None else record.claim.client,
            volumes=tuple(
                f"{volume.pool}/{volume.name}" for volume in snapshotting.left_over(domain, record)
            ),
            networks=record.started_networks,
        )
    return Leftover(
        name=domain.name,
        uuid=domain.uuid,
        phase=record.phase.value,
        client="" if record.claim is None else record.claim.client,
        volumes=(
            *(f"{volume.pool}/{volume.name}" for volume in record.volumes),
            *(f"{pool}/{name}" for pool, name in releasable_bases(domain, record)),
        ),
        networks=releasable_networks(domain, record),
        addresses=tuple(entry.address for entry in record.addresses),
    )
