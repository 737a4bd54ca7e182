"""Security groups of a host: made, listed, changed while guests run, removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vmctl import nic_filters
from vmctl.errors import ConflictError, NotFoundError
from vmctl.group_members import groups_of, put_in_force, read_groups
from vmctl.hypervisor import nwfilters
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.filtered_nics import GroupedNic, list_grouped
from vmctl.hypervisor.names import list_domains
from vmctl.render.filter_names import group_filter_name
from vmctl.spec.security_group import SecurityGroupSpec

__all__ = ["SecurityGroupInfo", "SecurityGroups"]


@dataclass(frozen=True, kw_only=True)
class SecurityGroupInfo:
    """A security group.

    Attributes:
        name: Its name.
        description: What it is for; empty for nothing.
        rules: Its rules, as they are written in its spec.
        machines: Whose NICs are in it, sorted by name.
        addresses: The addresses of these, as far as they are known: what rules that name this
            group are about.
        named_by: Other groups whose rules name it.
    """

    name: str
    description: str
    rules: tuple[dict[str, Any], ...]
    machines: tuple[str, ...]
    addresses: tuple[str, ...]
    named_by: tuple[str, ...]


class SecurityGroups:
    """The security groups of one host."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, spec: SecurityGroupSpec) -> SecurityGroupInfo:
        """Make a security group; nobody is in it yet.

        Args:
            spec: What is wanted.

        Raises:
            ConflictError: There is a group of that name.
            NotFoundError: A rule names a group that isn't there.
            UnsupportedError: The host's libvirt has no packet filters.
        """
        if nwfilters.missing(self._connection, [group_filter_name(spec.name)]):
            return self.apply(spec)
        raise ConflictError(
            f"there is a security group '{spec.name}' already",
            hint="choose another name; or give it these rules: `vmctl security-group apply FILE`",
        )

    def apply(self, spec: SecurityGroupSpec) -> SecurityGroupInfo:
        """Make a security group, or give the one that there is these rules.

        Running guests that are in it have them when this returns. Connections that there are go on.

        Args:
            spec: What is wanted.

        Raises:
            NotFoundError: A rule names a group that isn't there.
            UnsupportedError: The host's libvirt has no packet filters.
            HypervisorError: A guest can't have them; all have what they had.
        """
        named = {rule.group for rule in spec.rules if rule.group not in {None, spec.name}}
        there = {group.name for group in read_groups(self._connection)} if named else set()
        for number, rule in enumerate(spec.rules):
            if rule.group in named - there:
                raise NotFoundError(
                    f"rules[{number}].group names '{rule.group}', which isn't there",
                    hint="make that group first: `vmctl security-group create FILE`",
                )
        put_in_force(self._connection, spec)
        return self.info(spec.name)

    def list(self) -> Sequence[SecurityGroupInfo]:
        """Return every security group, sorted by name."""
        groups, nics = read_groups(self._connection), list_grouped(self._connection)
        return [_describe(spec, groups, nics) for spec in groups]

    def info(self, name: str) -> SecurityGroupInfo:
        """Return all that is known of a security group.

        Raises:
            NotFoundError: There is none of that name.
        """
        found = next((entry for entry in self.list() if entry.name == name), None)
        if found is None:
            raise NotFoundError(
                f"there is no security group '{name[:80]}'",
                hint="`vmctl security-group list` shows what there is",
            )
        return found

    def spec(self, name: str) -> SecurityGroupSpec:
        """Return what a security group was made from.

        Raises:
            NotFoundError: There is none of that name.
        """
        self.info(name)
        return next(spec for spec in read_groups(self._connection) if spec.name == name)

    def delete(self, name: str) -> None:
        """Remove a security group that nobody is in and no other group names.

        Raises:
            NotFoundError: There is none of that name.
            ConflictError: A NIC of a machine, running or not, is in it, or another group names it.
        """
        found = self.info(name)
        users = set(found.machines) | {
            listed.domain.name
            for listed in list_domains(self._connection)
            if listed.record is not None and name in groups_of(listed.record.spec)
        }
        if users:
            raise ConflictError(
                f"the security group '{name}' is used by {', '.join(sorted(users))}",
                hint="take their NICs out of it first: `vmctl nic filter`",
            )
        if found.named_by:
            raise ConflictError(
                f"rules of {', '.join(found.named_by)} name the security group '{name}'",
                hint="change these first: `vmctl security-group apply FILE`",
            )
        nwfilters.forget(self._connection, group_filter_name(name))
        # What it was recorded with, if it was the last.
        nic_filters.forget_unused(self._connection)


def _describe(
    spec: SecurityGroupSpec, groups: Sequence[SecurityGroupSpec], nics: Sequence[GroupedNic]
) -> SecurityGroupInfo:
    members = [nic for nic in nics if spec.name in nic.groups]
    return SecurityGroupInfo(
        name=spec.name,
        description=spec.description or "",
        rules=tuple(rule.model_dump(mode="json", exclude_unset=True) for rule in spec.rules),
        machines=tuple(sorted({nic.machine for nic in members})),
        addresses=tuple(sorted({address for nic in members for address in nic.addresses})),
        named_by=tuple(
            other.name
            for other in groups
            if other.name != spec.name and any(rule.group == spec.name for rule in other.rules)
        ),
    )
