"""What killed clients left: found by their records, shown, and removed. Nothing else is touched."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain, list_domains
from vmctl.hypervisor.metadata import Record
from vmctl.removal import releasable_bases, releasable_networks, remove_machine

__all__ = ["Leftover", "collect"]


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A machine that somebody was at work on who is not there any more.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        phase: What was being done: ``creating``, ``provisioning`` or ``deleting``.
        client: The host name of the client that was at work.
        volumes: ``POOL/NAME`` of the volumes that go with it, those of images that only it brought
            included; some may never have existed.
        networks: The networks that its launch started and that are stopped again, unless another
            machine uses them by then.
    """

    name: str
    uuid: str
    phase: str
    client: str
    volumes: tuple[str, ...]
    networks: tuple[str, ...] = ()


def collect(connection: Connection, *, dry_run: bool) -> list[Leftover]:
    """Remove what killed clients left.

    Args:
        connection: The host.
        dry_run: Only look.

    Returns:
        What was found.

    Raises:
        RollbackError: Something could not be removed.
    """
    found = []
    for domain, _state, record in list_domains(connection):
        if record is None or record.claim is None or not record.claim.is_abandoned():
            continue
        found.append(_leftover(domain, record))
        if not dry_run:
            remove_machine(domain, record)
    return found


def _leftover(domain: Domain, record: Record) -> Leftover:
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
    )
