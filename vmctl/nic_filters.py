"""The packet filters of NICs: there before a NIC refers to them, gone after the last one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lxml import etree

from vmctl.errors import NotFoundError, UnsupportedError
from vmctl.hypervisor import hotplug, kept_addresses, nwfilters
from vmctl.hypervisor.bridge_filtering import HINT, bridges_of_uri_are_seen
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.render.filter_names import GROUP_PREFIX, group_filter_name

if TYPE_CHECKING:
    # Who stops or removes a machine needs no specs and no templates.
    from vmctl.render.templates import Templates
    from vmctl.spec import NicSpec, VMSpec

__all__ = [
    "ensure",
    "ensure_recorded",
    "forget_unused",
    "is_filtered",
    "keep_to_reserved",
    "known_addresses",
    "refuse_unfilterable",
    "unused",
    "used_addresses",
]

# libvirt's stateful rules see what a bridge passes on, and not what its host routes to it.
_ROUTED = frozenset({"route", "open"})
# What passes there, no filter of libvirt's sees; it takes them all the same, and says nothing.
_UNSEEN = {
    "macvtap": "a network of a host's device",
    "hostdev": "a network of a host's devices",
    "openvswitch": "a network on Open vSwitch",
}


def refuse_unfilterable(connection: Connection, nics: Iterable[tuple[str, NicSpec]]) -> None:
    """Refuse NICs whose filters the host can't have.

    Args:
        connection: The host.
        nics: Resolved NICs, each with what it is called.

    Raises:
        NotFoundError: There is no such network, or no such security group.
        UnsupportedError: What the NIC is plugged into can't be filtered.
    """
    for called, nic in nics:
        if not (nic.antispoofing or nic.fence or nic.security_groups):
            continue
        if nic.network is not None:
            _refuse_network(connection, called, nic, nic.network)
        if nic.security_groups and bridges_of_uri_are_seen(connection.uri) is False:
            raise UnsupportedError(
                f"{called} is in a security group, and the host's kernel doesn't show iptables "
                "what passes its bridges: nobody would be kept out",
                hint=HINT,
            )
        names = {group_filter_name(group): group for group in nic.security_groups}
        for name in sorted(nwfilters.missing(connection, names)):
            raise NotFoundError(
                f"{called} is in the security group '{names[name]}', which isn't there",
                hint="make it first: `vmctl security-group create FILE`; "
                "`vmctl security-group list` shows what there is",
            )


def _refuse_network(connection: Connection, called: str, nic: NicSpec, network: str) -> None:
    mode = kept_addresses.forward_mode(connection, network)
    if mode in _UNSEEN:
        raise UnsupportedError(
            f"{called} joins '{network}', {_UNSEEN[mode]}, which libvirt can't filter",
            hint="write `antispoofing: false`, or join a network with a bridge of the kernel's",
        )
    if mode in _ROUTED and nic.security_groups:
        raise UnsupportedError(
            f"{called} joins '{network}', to which the host routes what libvirt's stateful filters "
            "don't see: a security group could not keep it out",
            hint="join a network of mode nat, isolated or bridge; or leave security_groups out",
        )


def known_addresses(
    connection: Connection, nics: Iterable[NicSpec], reserved: Iterable[ReservedAddress] = ()
) -> dict[str, Sequence[str]]:
    """Return the addresses that networks keep for NICs with filters, by MAC address.

    Args:
        connection: The host.
        nics: Resolved NICs.
        reserved: What is reserved for their machine, as its record says: an address of IPv6 is kept
            by the guest's name, which other NICs have too.
    """
    found: dict[str, Sequence[str]] = {}
    own: dict[tuple[str, str], list[str]] = {}
    for entry in reserved:
        own.setdefault((entry.network, entry.mac), []).append(entry.address)
    for nic in nics:
        if nic.antispoofing and nic.network is not None and nic.mac is not None:
            kept = kept_addresses.kept_for(connection, nic.network, nic.mac)
            found[nic.mac] = tuple(dict.fromkeys([*kept, *own.get((nic.network, nic.mac), ())]))
    return found


def keep_to_reserved(domain: Domain, spec: VMSpec, templates: Templates | None = None) -> None:
    """Let the filters of a machine's NICs know what is reserved for them, for its next start.

    Args:
        domain: The machine, with what is reserved in its record.
        spec: Its resolved spec, each NIC with its MAC address.
        templates: Templates to use instead of the default ones.
    """
    record = domain.record()
    if record is None or not any(nic.antispoofing for nic in spec.nics):
        return
    from vmctl.render.nwfilter import nic_filters, write_filter  # noqa: PLC0415 - see above

    known = known_addresses(domain.connection, spec.nics, record.addresses)
    said = nic_filters(spec, known, templates)

    def change(root: etree._Element) -> etree._Element:
        for node in root.iterfind("devices/interface"):
            mac = node.find("mac")
            own = None if mac is None else said.get((mac.get("address") or "").lower())
            # What somebody else gave it instead stays.
            if own is not None and node.find(f"filterref[@filter='{own.name}']") is not None:
                write_filter(node, own)
        return root

    hotplug.redefine(domain, change)


def used_addresses(connection: Connection, nic: NicSpec) -> Sequence[str]:
    """Return the addresses that the guest of a running NIC has, as far as its network knows them.

    It asked for them before there was a filter to listen to the answer.
    """
    if nic.network is None or nic.mac is None:
        return ()
    kept = kept_addresses.kept_for(connection, nic.network, nic.mac)
    return (*kept, *kept_addresses.leased_to(connection, nic.network, nic.mac))


def ensure(
    connection: Connection, nics: Iterable[NicSpec], templates: Templates | None = None
) -> None:
    """Make the filters that resolved NICs refer to, as far as they aren't there.

    They say the same for every machine, and are named by what they say, so no machine owns them.
    """
    from vmctl.render.nwfilter import nic_documents  # noqa: PLC0415 - see above

    documents = [entry for nic in nics for entry in nic_documents(nic, templates)]
    if documents:
        nwfilters.ensure(connection, documents)


def ensure_recorded(domain: Domain, spec: dict[str, Any]) -> None:
    """Make what a machine that is about to start refers to, on a host that lost it.

    Raises:
        NotFoundError: It refers to a security group that isn't there.
    """
    if not is_filtered(spec):
        return
    from vmctl.spec import VMSpec  # noqa: PLC0415 - see above

    nics = VMSpec.from_record(spec).resolved().nics
    refuse_unfilterable(
        domain.connection, ((f"'{domain.name}': nics[{n}]", nic) for n, nic in enumerate(nics))
    )
    ensure(domain.connection, nics)


def is_filtered(spec: dict[str, Any]) -> bool:
    """Return whether a NIC of a recorded spec has a filter."""
    return any(
        nic.get("antispoofing") or nic.get("fence") or nic.get("security_groups")
        for nic in spec.get("nics") or ()
    )


def unused(connection: Connection) -> list[str]:
    """Return the filters that no machine refers to; security groups are not among them."""
    return nwfilters.unused(connection, GROUP_PREFIX)


def forget_unused(connection: Connection) -> list[str]:
    """Remove the filters that no machine refers to; security groups stay.

    Returns:
        Which they were.
    """
    return nwfilters.remove_unused(connection, GROUP_PREFIX)
