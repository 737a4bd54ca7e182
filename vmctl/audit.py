"""What isolates a machine, line by line: what holds, what doesn't, and who would have to act."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lxml import etree

from vmctl.auditing import boot, confinement, network, shares, surface
from vmctl.auditing.line import AuditLine, Owes, Verdict
from vmctl.auditing.seen import Seen
from vmctl.hypervisor import audit_facts
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Role
from vmctl.hypervisor.processes import process_of
from vmctl.render.facts import HostFacts

__all__ = ["Audit", "AuditLine", "Owes", "Verdict", "audit"]

_JUDGES: tuple[Callable[[Seen], Iterator[AuditLine]], ...] = (
    confinement.judge,
    surface.judge,
    shares.judge,
    network.judge,
    boot.judge,
)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found of one machine.

    Attributes:
        name: The machine.
        uuid: Its UUID.
        running: Whether it runs; of one that is off, its next start is judged.
        lines: One for each thing that was looked at.
    """

    name: str
    uuid: str
    running: bool
    lines: tuple[AuditLine, ...]

    @property
    def failed(self) -> Sequence[AuditLine]:
        """The lines of what doesn't hold."""
        return tuple(line for line in self.lines if line.verdict is Verdict.FAILS)

    def line(self, check: str) -> AuditLine:
        """Return one line.

        Raises:
            KeyError: Nothing of that name is looked at.
        """
        for line in self.lines:
            if line.check == check:
                return line
        raise KeyError(check)


def audit(domain: Domain, facts: HostFacts) -> Audit:
    """Look at a machine, whoever made it.

    Raises:
        NotFoundError: It is gone.
    """
    running = domain.is_active()
    record = domain.record()
    seen = Seen(
        # Whether a screen has a password is in no other.
        root=etree.fromstring(domain.secret_xml(live=running)),
        running=running,
        argv=audit_facts.command_line(domain),
        process=process_of(domain.connection.uri, domain.uuid) if running else None,
        files=() if record is None else tuple(audit_facts.files_of(domain.connection, record)),
        tenant="" if record is None else str(record.spec.get("tenant") or ""),
        has_seed=record is not None and record.volume(Role.SEED) is not None,
        filters=audit_facts.filters_of(domain),
        networks=audit_facts.networks_of(domain),
        facts=facts,
        is_here=domain.connection.address.is_local,
    )
    lines = tuple(line for judge in _JUDGES for line in judge(seen))
    return Audit(name=domain.name, uuid=domain.uuid, running=running, lines=lines)
