"""NICs that join other networks: addresses there, and none any more where they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vmctl import group_members, nic_filters
from vmctl.changes import settle
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record
from vmctl.networking.reserving import only, plan_addresses, reserve
from vmctl.progress import being_undone
from vmctl.spec import VMSpec

__all__ = ["moved"]


@contextmanager
def moved(domain: Domain, record: Record, before: VMSpec, after: VMSpec) -> Iterator[Record]:
    """Reserve what NICs need on other networks while the block lets them join these.

    What nothing needs afterwards is freed; a network that the machine runs on still keeps what it
    has until a later change, or `gc`, finds it off.

    Args:
        domain: The machine, within `vmctl.changes.changing`.
        record: Its record.
        before: Its spec, each NIC with its MAC address.
        after: What it is going to be.

    Yields:
        The record, with what was reserved.

    Raises:
        SpecError: A NIC can't have the address that it is given, on its new network.
    """
    joined = {nic.mac: nic.network for nic in before.nics}
    moving = {
        index
        for index, nic in enumerate(after.nics)
        if nic.network is not None and joined.get(nic.mac, nic.network) != nic.network
    }
    planned = plan_addresses(domain.connection, only(after, moving), domain.uuid) if moving else ()
    if planned:
        kept = (*record.addresses, *(entry.entry for entry in planned))
        record = domain.update_record(addresses=kept)
    try:
        reserve(domain, after, planned)
        yield (domain.record() or record) if planned else record
        if planned:
            nic_filters.keep_to_reserved(domain, after)
    except BaseException:
        with being_undone():
            outlasting(lambda: settle(domain))
        raise
    outlasting(lambda: settle(domain))
    if moving:
        # Their rules name its members' addresses, of which some are anybody's again.
        nics = (*before.nics, *after.nics)
        groups = {group for nic in nics for group in nic.security_groups}
        group_members.refresh(domain.connection, groups)
