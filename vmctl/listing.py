"""The machines of a host, a line for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vmctl.guest.addresses import known_addresses
from vmctl.hypervisor import overview
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.names import Listed, list_domains
from vmctl.hypervisor.reservations import read_kept
from vmctl.info import MachineSummary
from vmctl.render.identity import mac_address

__all__ = ["list_machines", "summarize"]

# How many NICs of a machine that is off are looked for among what networks keep.
_LOOKED_FOR = 4


def list_machines(connection: Connection, *, details: bool) -> Sequence[MachineSummary]:
    """Return a line for every machine, sorted by name.

    Args:
        connection: The host.
        details: Whether vmctl's record of each is read as well, a few calls for each machine;
            without it the number of calls doesn't grow with the number of machines.
    """
    leases = overview.read_leases(connection)
    kept = read_kept(connection)
    lines = [_line(seen, leases, kept) for seen in overview.read_overview(connection)]
    if not details:
        return lines
    listed = {entry.domain.uuid: entry for entry in list_domains(connection)}
    # One that went away between the two looks is gone.
    return [summarize(listed[line.uuid], line, kept) for line in lines if line.uuid in listed]


def _line(
    seen: overview.Seen, leases: dict[str, list[str]], kept: dict[str, list[str]]
) -> MachineSummary:
    """Return what can be said of a machine without asking for it alone.

    libvirt tells all machines' NICs at once, but not their MAC addresses, and nothing of one that
    is off. Those that vmctl derived from the UUID are known; an address behind another one takes
    the details.
    """
    macs = [mac_address(seen.domain.uuid, index) for index in range(seen.nics or _LOOKED_FOR)]
    known = [address for mac in macs for address in kept.get(mac, ())]
    if seen.nics:
        known += [address for mac in macs for address in leases.get(mac, ())]
    return MachineSummary(
        name=seen.domain.name,
        uuid=seen.domain.uuid,
        state=seen.state.value,
        state_reason=seen.reason,
        addresses=tuple(dict.fromkeys(known)),
        autostart=seen.autostart,
        saved=seen.saved,
    )


def summarize(listed: Listed, line: MachineSummary, kept: dict[str, list[str]]) -> MachineSummary:
    """Return the line of a machine with what its record says as well."""
    record = listed.record
    phase = "" if record is None else record.phase.value
    return replace(
        line,
        phase=phase if listed.readable else "unreadable",
        addresses=known_addresses(listed.domain, listed.state, record, kept=kept),
        labels={} if record is None else dict(record.spec.get("labels") or {}),
        tenant="" if record is None else str(record.spec.get("tenant") or ""),
    )
