"""What each source says of a machine's addresses, NIC by NIC, and why it says nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lxml import etree

from vmctl.errors import VmctlError
from vmctl.guest.addresses import static_addresses
from vmctl.guest.reach import Reach
from vmctl.hypervisor import forwards
from vmctl.hypervisor.domains import ADDRESS_SOURCES, Domain
from vmctl.hypervisor.metadata import Record
from vmctl.hypervisor.network_facts import leases_of
from vmctl.hypervisor.networks import is_active
from vmctl.hypervisor.reservations import served_by

__all__ = ["AddressReport", "report_addresses"]

_SSH = 22


@dataclass(frozen=True, kw_only=True)
class AddressReport:
    """What one source says of the addresses of one NIC.

    Attributes:
        mac: The NIC's MAC address.
        network: The network or the bridge that it is plugged into; ``user`` for a user-mode one.
        source: Who says it: ``spec`` for static addresses, ``reservation`` for what the network
            keeps for the NIC, ``lease`` for what its DHCP server gave to it, ``agent`` for what
            the agent in the guest says, ``arp`` for what the host has seen; ``forward`` for the
            port of the host that leads to the SSH of a guest in user mode.
        addresses: What it says.
        why: Why it says nothing; empty if it says something.
    """

    mac: str
    network: str
    source: str
    addresses: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class _Nic:
    mac: str
    type: str
    network: str


def report_addresses(
    domain: Domain, record: Record | None, *, reach: Reach
) -> Sequence[AddressReport]:
    """Ask every source for the addresses of a machine, running or not.

    Args:
        domain: The machine.
        record: What vmctl knows of it; None for one that it did not make.
        reach: The way to its host.
    """
    asked = _Asked(domain, record, reach)
    return [report for nic in _nics(domain) for report in asked.of(nic)]


def _nics(domain: Domain) -> list[_Nic]:
    found = []
    for node in etree.fromstring(domain.xml()).iterfind("devices/interface"):
        mac, source = node.find("mac"), node.find("source")
        kind = node.get("type", "")
        names = [
            "" if source is None else source.get(word, "") for word in ("network", "bridge", "dev")
        ]
        network = next(filter(None, names), kind)
        found.append(_Nic("" if mac is None else mac.get("address", "").lower(), kind, network))
    return found


class _Asked:
    def __init__(self, domain: Domain, record: Record | None, reach: Reach) -> None:
        self._domain = domain
        self._record = record
        self._reach = reach
        self._off = "" if domain.is_active() else f"the machine is {domain.state().value}"
        self._answers: dict[str, dict[str, list[str]] | str] = {}

    def of(self, nic: _Nic) -> list[AddressReport]:
        """Return what each source says of a NIC."""
        if nic.type == "user":
            sources = {"forward": self._forward, "agent": self._agent}
        else:
            sources = {
                "spec": self._spec,
                "reservation": self._reservation,
                "lease": self._lease,
                "agent": self._agent,
                "arp": self._arp,
            }
        return [self._report(nic, source, ask) for source, ask in sources.items()]

    @staticmethod
    def _report(
        nic: _Nic, source: str, ask: Callable[[_Nic], tuple[Iterable[str], str]]
    ) -> AddressReport:
        try:
            said, why = ask(nic)
        except VmctlError as error:
            said, why = (), (error.details or error.brief).splitlines()[0]
        addresses = tuple(dict.fromkeys(said))
        return AddressReport(
            mac=nic.mac,
            network=nic.network,
            source=source,
            addresses=addresses,
            why="" if addresses else why,
        )

    def _spec(self, nic: _Nic) -> tuple[Iterable[str], str]:
        spec = {} if self._record is None else self._record.spec
        return static_addresses(spec).get(nic.mac, ()), "it has no static address"

    def _reservation(self, nic: _Nic) -> tuple[Iterable[str], str]:
        if nic.type != "network":
            return (), f"a NIC of type {nic.type} has no DHCP server to ask"
        served = served_by(self._domain.connection, nic.network)
        own = () if self._record is None else self._record.addresses
        of_mac = {(entry.network, entry.address) for entry in own if entry.mac == nic.mac}
        found = [
            entry.address
            for subnet in served.subnets
            for entry in subnet.kept
            if entry.mac == nic.mac or (served.name, entry.address) in of_mac
        ]
        gives = any(subnet.serves_dhcp for subnet in served.subnets)
        nothing = "keeps no address for it" if gives else "gives no addresses"
        return found, f"the network '{nic.network}' {nothing}"

    def _lease(self, nic: _Nic) -> tuple[Iterable[str], str]:
        if nic.type != "network":
            return (), f"a NIC of type {nic.type} has no DHCP server to ask"
        if not is_active(self._domain.connection, nic.network):
            return (), f"the network '{nic.network}' is inactive"
        leases = leases_of(self._domain.connection, nic.network)
        found = [lease.address for lease in leases if lease.mac == nic.mac]
        return found, "the guest has not asked for an address"

    def _agent(self, nic: _Nic) -> tuple[Iterable[str], str]:
        said = self._ask("agent")
        return (
            (said.get(nic.mac, ()), "the guest has no address on it")
            if isinstance(said, dict)
            else ((), said)
        )

    def _arp(self, nic: _Nic) -> tuple[Iterable[str], str]:
        said = self._ask("arp")
        found = list(said.get(nic.mac, ())) if isinstance(said, dict) else []
        if not found and not self._off:
            # libvirt before 9.1 can't read the tables of newer kernels.
            found = list(self._reach.neighbors().get(nic.mac, ()))
        return found, said if isinstance(said, str) else "the host has not heard of it lately"

    def _ask(self, source: str) -> dict[str, list[str]] | str:
        """Return what libvirt hears from a source of all NICs at once, or why it hears nothing."""
        if self._off:
            return self._off
        if source not in self._answers:
            try:
                said = self._domain.addresses(ADDRESS_SOURCES[source])
            except VmctlError as error:
                self._answers[source] = (error.details or error.brief).splitlines()[0]
            else:
                self._answers[source] = {
                    mac: [address for address, _prefix in entries if _is_address(address)]
                    for mac, entries in said.items()
                }
        return self._answers[source]

    def _forward(self, nic: _Nic) -> tuple[Iterable[str], str]:
        if self._off:
            return (), self._off
        found = forwards.forward_to(self._domain, nic.mac, guest_port=_SSH, make=False)
        return (() if found is None else (f"{found[0]}:{found[1]}",)), "none is open yet"


def _is_address(text: str) -> bool:
    # The agent's answer is the guest's, and may be anything.
    try:
        return not ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
