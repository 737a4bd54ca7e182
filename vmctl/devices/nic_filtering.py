"""What a NIC of a machine may send, and who may reach it, changed while it runs or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lxml import etree

from vmctl import group_members, nic_filters
from vmctl.changes import carry_out, changing
from vmctl.devices.machine import as_given, recorded, spec_of
from vmctl.devices.nics import AttachedNic, changed_spec, find_nic, in_xpath, nic_nodes
from vmctl.errors import UnsupportedError
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.hotplug import Scope
from vmctl.hypervisor.metadata import Pending
from vmctl.render.domain import with_macs
from vmctl.render.nwfilter import NicFilter, nic_filter, write_filter
from vmctl.render.templates import Templates
from vmctl.tenancy import refuse_foreign_nics

__all__ = ["filter_nic"]


def filter_nic(
    domain: Domain,
    mac: str,
    *,
    antispoofing: bool | None = None,
    security_groups: Sequence[str] | None = None,
    next_start: bool = False,
    templates: Templates | None = None,
) -> AttachedNic:
    """Give a NIC another packet filter; connections that there are go on.

    Args:
        domain: The machine.
        mac: The NIC's MAC address.
        antispoofing: Whether the guest can send by its own addresses only; None: as it is, and
            True where there are security groups.
        security_groups: The groups that it is in from then on; None: as it is.
        next_start: Whether a running machine goes on as it is until then.
        templates: Templates to use instead of the default ones.

    Raises:
        NotFoundError: There is no such NIC, or no such security group.
        SpecError: The two contradict each other, or a tenant's NIC on a shared network would be
            without anti-spoofing.
        UnsupportedError: What it is plugged into can't be filtered.
    """
    with changing(domain) as record:
        found = find_nic(domain, mac)
        if found.type == "user":
            raise UnsupportedError(
                f"{found.mac} of '{domain.name}' is a user-mode NIC, which has no packet filter",
                hint="attach one that joins a network or a bridge",
            )
        changes: dict[str, Any] = {}
        if security_groups is not None:
            changes["security_groups"] = tuple(security_groups)
        if antispoofing is not None:
            changes["antispoofing"] = antispoofing
        elif security_groups:
            changes["antispoofing"] = True
        spec = with_macs(spec_of(record), domain.uuid)
        old = next((nic for nic in spec.nics if nic.mac == found.mac), None)
        if old is None:
            raise UnsupportedError(
                f"{found.mac} of '{domain.name}' is a NIC that vmctl did not attach",
                hint="detach it, and attach one by `vmctl nic attach`",
            )
        with as_given("the NIC", f"nics[{spec.nics.index(old)}]"):
            new = old.replace(**changes)
        refuse_foreign_nics(
            domain.connection, domain.name, spec.tenant, (new,), named=lambda _number: ""
        )
        nic_filters.refuse_unfilterable(domain.connection, [(f"the NIC {found.mac}", new)])
        scope = hotplug.scope_of(domain, next_start=next_start)
        own = nic_filters.known_addresses(domain.connection, [new], record.addresses)
        kept = own.get(found.mac, ())
        said = {
            True: nic_filter(new, kept, templates),
            False: nic_filter(new, nic_filters.used_addresses(domain.connection, new), templates),
        }
        nic_filters.ensure(domain.connection, [new], templates)

        def act() -> None:
            for later in (False, True):
                node = nic_nodes(domain, later=later).get(found.mac)
                if node is None or not (later or scope.now):
                    continue
                hotplug.update(
                    domain,
                    _with_filter(node, said[later]),
                    Scope(now=not later, later=later),
                    what=f"the packet filter of the NIC {found.mac}",
                )

        where = f"{in_xpath(found.mac)}/filterref"
        after = said[True]
        proof = f"not({where})" if after is None else f"{where}/@filter='{after.name}'"
        changed = changed_spec(
            spec, domain, found.mac, **{name: getattr(new, name) for name in changes}
        )
        carry_out(domain, Pending.of_value(recorded(changed, record), proof), act)
    moved = set(old.security_groups) ^ set(new.security_groups)
    group_members.refresh(domain.connection, moved)
    nic_filters.forget_unused(domain.connection)
    return find_nic(domain, mac)


def _with_filter(node: etree._Element, said: NicFilter | None) -> str:
    write_filter(node, said)
    return etree.tostring(node, encoding="unicode")
