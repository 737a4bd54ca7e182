"""Rules that name other groups: kept to the addresses of those who are in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vmctl.errors import NotFoundError
from vmctl.hypervisor import nwfilters
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.filtered_nics import list_grouped
from vmctl.render.filter_names import GROUP_PREFIX, group_filter_name

if TYPE_CHECKING:
    # Who stops or removes a machine that is in no group needs no specs and no templates.
    from vmctl.spec.security_group import SecurityGroupSpec

__all__ = ["addresses_by_group", "groups_of", "put_in_force", "read_groups", "refresh"]

# How often members may come and go while the rules for those before are put in force.
_TRIES = 8


def groups_of(spec: dict[str, Any]) -> set[str]:
    """Return the security groups that a recorded spec's NICs are in."""
    nics = spec.get("nics") or ()
    return {group for nic in nics for group in nic.get("security_groups") or ()}


def addresses_by_group(connection: Connection) -> dict[str, tuple[str, ...]]:
    """Return the known addresses of those who are in each group, by its name."""
    found: dict[str, set[str]] = {}
    for nic in list_grouped(connection):
        for group in nic.groups:
            found.setdefault(group, set()).update(nic.addresses)
    return {group: tuple(sorted(addresses)) for group, addresses in found.items()}


def read_groups(connection: Connection) -> list[SecurityGroupSpec]:
    """Return what every security group was made from, sorted by name."""
    names = [name for name in nwfilters.list_names(connection) if name.startswith(GROUP_PREFIX)]
    if not names:
        return []
    from vmctl.render.security_group import recorded_group  # noqa: PLC0415 - see above

    found = []
    for name in sorted(names):
        try:
            spec = recorded_group(nwfilters.read(connection, name))
        except NotFoundError:
            continue
        if spec is not None:
            found.append(spec)
    return found


def put_in_force(connection: Connection, spec: SecurityGroupSpec) -> None:
    """Give a group's filter its rules, for the members that there are when this returns.

    Members come and go meanwhile: whoever sees that it wrote of others than there are, writes
    again. So of several at once, the last to write has written what is true.
    """
    from vmctl.render.security_group import render_group  # noqa: PLC0415 - see above

    for _try in range(_TRIES):
        members = addresses_by_group(connection) if _names_groups(spec) else {}
        record, document = render_group(spec, members)
        nwfilters.ensure(connection, [record])
        if not nwfilters.says(connection, document):
            nwfilters.define(connection, document)
        if not _names_groups(spec) or addresses_by_group(connection) == members:
            return


def _names_groups(spec: SecurityGroupSpec) -> bool:
    return any(rule.group is not None for rule in spec.rules)


def refresh(connection: Connection, groups: Iterable[str]) -> None:
    """Bring the rules that name groups into line with who is in them.

    Args:
        connection: The host.
        groups: The groups that somebody came to, or left.
    """
    changed = set(groups)
    if not changed:
        return
    for spec in read_groups(connection):
        if any(rule.group in changed for rule in spec.rules):
            # As it is now: somebody may have changed or deleted it since.
            if nwfilters.missing(connection, [group_filter_name(spec.name)]):
                continue
            put_in_force(connection, spec)
