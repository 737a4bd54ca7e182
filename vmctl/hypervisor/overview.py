"""All machines of a host in as many libvirt calls as for one.

Nothing here is asked of a single domain: the figures come from ``virConnectGetAllDomainStats``,
flags from libvirt's own filters, and addresses from the DHCP leases of its networks.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import libvirt

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import STATES, Domain, State
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.reasons import reason_word

__all__ = ["Seen", "read_leases", "read_overview"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A domain, as a look at the whole host shows it.

    Attributes:
        domain: It.
        state: Its state.
        reason: Why it is in it; empty where libvirt does not know.
        nics: How many NICs it has while it runs.
        autostart: Whether it starts with the host.
        saved: Whether its memory is saved, so that its next start goes on from there.
    """

    domain: Domain
    state: State
    reason: str
    nics: int
    autostart: bool
    saved: bool


def read_overview(connection: Connection) -> list[Seen]:
    """Return every domain, sorted by name: three calls, however many there are."""
    raw = connection.raw
    groups = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_INTERFACE
    with calling("list the machines"):
        # A domain that somebody is at work on must not keep the others waiting.
        found = raw.getAllDomainStats(groups, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
        autostart, saved = (
            {entry.UUIDString() for entry in raw.listAllDomains(flag)}
            for flag in (
                libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART,
                libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE,
            )
        )
    seen = []
    for entry, figures in found:
        uuid, state = entry.UUIDString(), STATES[figures["state.state"]]
        seen.append(
            Seen(
                domain=Domain(connection, uuid, entry.name()),
                state=state,
                reason=reason_word(state, figures["state.reason"]),
                nics=figures.get("net.count", 0),
                autostart=uuid in autostart,
                saved=uuid in saved,
            )
        )
    return sorted(seen, key=lambda one: one.domain.name)


def read_leases(connection: Connection) -> dict[str, list[str]]:
    """Return MAC to the addresses that libvirt's networks leased to it: a call for each network."""
    found: dict[str, list[str]] = {}
    # A host without networks (a session's libvirt, say) has no leases.
    without = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_NO_CONNECT)
    with calling("ask for the DHCP leases"):
        try:
            running = connection.raw.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
        except libvirt.libvirtError as error:
            if is_code(error, *without):
                return {}
            raise
        for network in running:
            # Somebody may have stopped it, and networks without DHCP have none.
            with suppress(libvirt.libvirtError):
                for lease in network.DHCPLeases():
                    found.setdefault((lease["mac"] or "").lower(), []).append(lease["ipaddr"])
    return found
