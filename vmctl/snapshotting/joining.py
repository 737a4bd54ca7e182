"""NICs that come back with a snapshot: to networks, filters and addresses that went on without.

Nothing stays for what only a snapshot names: a network may be another tenant's by now, a filter
gone, and an address another machine's.
"""

from __future__ import annotations

from vmctl import group_members, nic_filters
from vmctl.changes import changing
from vmctl.errors import ConflictError, NotFoundError
from vmctl.guest.addresses import static_addresses
from vmctl.hypervisor import hotplug, reservations
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.hypervisor.names import list_domains
from vmctl.hypervisor.reserved_addresses import ReservedAddress
from vmctl.hypervisor.snapshots import SnapshotDetails
from vmctl.snapshotting.switching import merged, record_in
from vmctl.tenancy import refuse_foreign_networks

__all__ = ["prepare", "rejoin"]


def prepare(domain: Domain, record: Record, details: SnapshotDetails) -> None:
    """See that a machine can have its NICs again as they were in a snapshot.

    Networks and filters are looked at for a guest that runs on at once: of a machine that is off
    afterwards, its next start does that.

    Raises:
        ConflictError: Another machine has an address of them now, or a network became another
            tenant's.
        NotFoundError: A security group that they were in is gone.
    """
    then = record_in(details.definition)
    if then is not None:
        _refuse_given_away(domain, record, then, details)
    if details.facts.state not in {State.RUNNING.value, State.PAUSED.value}:
        return
    spec = merged(record, then).spec
    roots = (details.definition, details.running)
    joined = {network for root in roots for _mac, network in hotplug.plugged_in(root)}
    tenant = str(spec.get("tenant") or "")
    refuse_foreign_networks(domain.connection, domain.name, tenant, sorted(joined))
    nic_filters.ensure_recorded(domain, spec)


def _refuse_given_away(domain: Domain, now: Record, then: Record, details: SnapshotDetails) -> None:
    back = _addresses_of(then) - _addresses_of(now)
    if not back:
        return
    for other in list_domains(domain.connection):
        if other.record is None or other.domain.uuid == domain.uuid:
            continue
        if other.record.phase is Phase.DELETING:
            continue
        for network, address in sorted(back & _addresses_of(other.record)):
            name = details.facts.name
            raise ConflictError(
                f"'{domain.name}' had {address} on the network '{network}' in its snapshot "
                f"'{name}', and that is now the address of '{other.domain.name}'",
                hint=f"delete '{other.domain.name}' first, or detach its NIC; or make a clone of "
                f"the snapshot: `vmctl clone {domain.name} NEW --from-snapshot {name}`",
            )


def _addresses_of(record: Record) -> set[tuple[str, str]]:
    """Return network and address of all that a machine's record has, static or reserved."""
    found = {(entry.network, entry.address) for entry in record.addresses}
    for nic in record.spec.get("nics") or ():
        for addresses in static_addresses({"nics": [nic]}).values():
            found |= {(nic["network"], entry) for entry in addresses if nic.get("network")}
    return found


def rejoin(domain: Domain, before: Record, details: SnapshotDetails) -> None:
    """Reserve again what was free meanwhile, and let groups' rules name who is in them now.

    Raises:
        ConflictError: An address was taken in the same moment; the machine has been taken back.
    """
    then = record_in(details.definition)
    plugged = hotplug.plugged_in(hotplug.definition(domain, later=True))
    now = domain.record() or before
    lacking = [
        entry
        for entry in (() if then is None else then.addresses)
        if (entry.mac, entry.network) in plugged and not _has_one(now, entry)
    ]
    if lacking:
        with changing(domain, even_saved=True):
            for entry in lacking:
                _reserve(domain, entry)
    groups = group_members.groups_of(before.spec) | group_members.groups_of(now.spec)
    group_members.refresh(domain.connection, groups)


def _has_one(record: Record, wanted: ReservedAddress) -> bool:
    mine = (wanted.network, wanted.mac, wanted.version)
    return any((entry.network, entry.mac, entry.version) == mine for entry in record.addresses)


def _reserve(domain: Domain, entry: ReservedAddress) -> None:
    record = domain.record()
    rest = () if record is None else record.addresses
    domain.update_record(addresses=(*rest, entry))
    try:
        reservations.add(domain.connection, entry)
    except NotFoundError:
        # That the network is gone is for who starts the machine to say.
        domain.update_record(addresses=rest)
    except ConflictError:
        # It is not this machine's, and must not go with it.
        domain.update_record(addresses=rest)
        raise
