"""Where a guest can be reached: asked of every source, by MAC, and reported source by source."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from vmctl.errors import HostUnavailableError, PermissionDeniedError, VmctlError
from vmctl.guest.reach import Reach
from vmctl.hypervisor import forwards
from vmctl.hypervisor.domains import ADDRESS_SOURCES, Domain, State
from vmctl.hypervisor.metadata import Record

__all__ = ["Endpoint", "Sighting", "has_nic", "known_addresses", "look", "static_addresses"]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An address and port, as the hypervisor sees them, that lead to the guest's SSH.

    Attributes:
        address: An IP address: the guest's own, or the hypervisor's loopback for a forward.
        port: The port there.
        mac: The NIC it belongs to.
        source: Who said so: ``spec``, ``lease``, ``agent``, ``arp`` or ``forward``.
    """

    address: str
    port: int
    mac: str
    source: str

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port} ({self.source})"


@dataclass(frozen=True)
class Sighting:
    """What one look found, and what each source said."""

    endpoints: tuple[Endpoint, ...] = ()
    said: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """Return a line per source."""
        return "\n".join(f"{source}: {text}" for source, text in self.said.items())


def static_addresses(spec: dict[str, Any]) -> dict[str, list[str]]:
    """Return MAC to the fixed addresses in a recorded spec, without their prefix lengths."""
    found: dict[str, list[str]] = {}
    for nic in spec.get("nics") or ():
        given = nic.get("address") or []
        addresses = [given] if isinstance(given, str) else list(given)
        found[(nic.get("mac") or "").lower()] = [entry.partition("/")[0] for entry in addresses]
    return found


def known_addresses(
    domain: Domain,
    state: State,
    record: Record | None,
    *,
    kept: Mapping[str, Sequence[str]] | None = None,
) -> tuple[str, ...]:
    """Return the addresses that are known without asking the guest.

    Those are fixed ones, those that networks keep for it, and leases.

    Args:
        domain: The machine.
        state: Its state.
        record: What vmctl knows of it.
        kept: What networks keep, by MAC address, where that was asked for.
    """
    fixed = {} if record is None else static_addresses(record.spec)
    found = [address for group in fixed.values() for address in group]
    if record is not None:
        found += [entry.address for entry in record.addresses]
    found += [address for mac in fixed for address in (kept or {}).get(mac, ())]
    if state in {State.RUNNING, State.PAUSED, State.IDLE}:
        # It may have stopped, or gone, since it was listed; and its network may be gone.
        with suppress(VmctlError):
            leased = domain.addresses(ADDRESS_SOURCES["lease"])
            found += [address for group in leased.values() for address, _prefix in group]
    return tuple(dict.fromkeys(found))


def look(
    domain: Domain,
    spec: dict[str, Any],
    *,
    reach: Reach,
    port: int = 22,
    make_forwards: bool = True,
) -> Sighting:
    """Ask every source where the guest's port can be reached.

    Args:
        domain: A running machine.
        spec: Its recorded spec.
        reach: The way to its host.
        port: The guest's port.
        make_forwards: Whether a port of the hypervisor's that leads to it is opened where there is
            none; else those that are open are reported.

    Returns:
        Endpoints without repetition, the most trustworthy source first. Link-local and loopback
        addresses of the guest are left out.
    """
    kinds = _nics(domain)
    macs = {mac for mac, kind in kinds.items() if kind != "user"}
    endpoints: list[Endpoint] = []
    said: dict[str, str] = {}
    for mac in (mac for mac, kind in kinds.items() if kind == "user"):
        try:
            forward = forwards.forward_to(domain, mac, guest_port=port, make=make_forwards)
        except VmctlError as error:
            _raise_if_away(error)
            said["forward"] = error.brief
            continue
        if forward is None:
            said["forward"] = "none is open yet"
            continue
        address, host_port = forward
        said["forward"] = f"{address}:{host_port}"
        endpoints.append(Endpoint(address=address, port=host_port, mac=mac, source="forward"))
    if macs:
        fixed = {mac: found for mac, found in static_addresses(spec).items() if mac in macs}
        said["spec"] = _told([entry for found in fixed.values() for entry in found])
        endpoints += _endpoints("spec", fixed, port)
        for source, number in ADDRESS_SOURCES.items():
            found = _ask(domain, source, number, macs, said.__setitem__)
            if source == "arp" and not any(found.values()):
                # libvirt before 9.1 can't read the tables of newer kernels.
                found = {mac: seen for mac, seen in reach.neighbors().items() if mac in macs}
                if found:
                    said[source] = _told([entry for seen in found.values() for entry in seen])
            endpoints += _endpoints(source, found, port)
    if not kinds:
        said["machine"] = "it has no network interface"
    return Sighting(tuple(_without_repetition(endpoints)), said)


def has_nic(domain: Domain) -> bool:
    """Return whether a running machine has any network interface now."""
    return bool(_nics(domain))


def _nics(domain: Domain) -> dict[str, str]:
    """Return MAC to kind of interface, in the order of the machine's NICs."""
    root = etree.fromstring(domain.xml())
    found = {}
    for nic in root.findall("devices/interface"):
        mac = nic.find("mac")
        if mac is not None:
            found[(mac.get("address") or "").lower()] = nic.get("type") or ""
    return found


def _ask(
    domain: Domain, source: str, number: int, macs: set[str], say: Callable[[str, str], None]
) -> dict[str, list[str]]:
    try:
        answer = domain.addresses(number)
    except VmctlError as error:
        _raise_if_away(error)
        say(source, (error.details or error.brief).splitlines()[0])
        return {}
    found = {
        mac: [address for address, _prefix in entries if _is_usable(address)]
        for mac, entries in answer.items()
        if mac in macs
    }
    say(source, _told([address for entries in found.values() for address in entries]))
    return found


def _raise_if_away(error: VmctlError) -> None:
    """Raise it again when it is not this source that can't be asked, but the host."""
    if isinstance(error, HostUnavailableError) and not isinstance(error, PermissionDeniedError):
        raise error


def _told(addresses: list[str]) -> str:
    return ", ".join(addresses) or "no address"


def _is_usable(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        # The agent's answer is the guest's, and may be anything.
        return False
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_multicast)


def _endpoints(source: str, found: dict[str, list[str]], port: int) -> list[Endpoint]:
    return [
        Endpoint(address=address, port=port, mac=mac, source=source)
        for mac, addresses in found.items()
        for address in addresses
    ]


def _without_repetition(endpoints: list[Endpoint]) -> list[Endpoint]:
    first: dict[tuple[str, int], Endpoint] = {}
    for endpoint in endpoints:
        first.setdefault((endpoint.address, endpoint.port), endpoint)
    return list(first.values())
