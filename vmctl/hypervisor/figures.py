"""What libvirt measures of domains: all of them in one call.

The names in the figures are those of ``virConnectGetAllDomainStats``
(https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectGetAllDomainStats).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import libvirt

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import STATES, Domain, State
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["Figures", "figures_of", "figures_of_all"]

_GROUPS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
# A domain that somebody is at work on gives what can be had at once, and keeps nobody waiting.
_NOWAIT = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


@dataclass(frozen=True)
class Figures:
    """What was measured of one domain, by libvirt's names."""

    domain: Domain
    state: State
    values: dict[str, Any]

    def table(self, group: str) -> list[dict[str, Any]]:
        """Return ``group.0.NAME``, ``group.1.NAME`` ... as a list of mappings by name."""
        found = []
        for number in range(self.values.get(f"{group}.count", 0)):
            head = f"{group}.{number}."
            found.append(
                {
                    key.removeprefix(head): value
                    for key, value in self.values.items()
                    if key.startswith(head)
                }
            )
        return found


def figures_of_all(connection: Connection) -> list[Figures]:
    """Measure every domain, in one call; sorted by name."""
    with calling("measure the machines"):
        found = connection.raw.getAllDomainStats(_GROUPS, _NOWAIT)
    return sorted(_read(connection, found), key=lambda entry: entry.domain.name)


def figures_of(domain: Domain) -> Figures:
    """Measure one domain.

    Raises:
        NotFoundError: It is gone.
    """
    raw = domain.raw()
    with calling(f"measure the machine '{domain.name}'"):
        try:
            found = domain.connection.raw.domainListGetStats([raw], _GROUPS, _NOWAIT)
        except libvirt.libvirtError as error:
            # The test driver measures all or none.
            if not is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
                raise
            found = domain.connection.raw.getAllDomainStats(_GROUPS, _NOWAIT)
    for figures in _read(domain.connection, found):
        if figures.domain.uuid == domain.uuid:
            return figures
    # libvirt leaves out one that went away meanwhile; asking for it says so.
    return Figures(domain, domain.state(), {})


def _read(connection: Connection, found: list[tuple[Any, dict[str, Any]]]) -> list[Figures]:
    return [
        Figures(
            Domain(connection, raw.UUIDString(), raw.name()), STATES[values["state.state"]], values
        )
        for raw, values in found
    ]
