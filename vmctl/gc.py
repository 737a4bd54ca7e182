"""What killed clients left: found by their records, shown, and removed. Nothing else is touched."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain, list_domains
from vmctl.hypervisor.metadata import Record
from vmctl.removal import remove_machine

__all__ = ["Leftover", "collect"]


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A machine that somebody was at work on who is not there any more.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        phase: What was being done: ``creating``, ``provisioning`` or ``deleting``.
        client: The host name of the client that was at work.
        volumes: The volumes that it lists; some may never have existed.
    """

    name: str
    uuid: str
    phase: str
    client: str
    volumes: tuple[str, ...]


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
        volumes=tuple(f"{volume.pool}/{volume.name}" for volume in record.volumes),
    )
