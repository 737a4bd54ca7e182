"""Names: of machines, of hosts on a network, of users."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from vmctl.errors import UsageError

__all__ = [
    "GroupName",
    "HostName",
    "MachineName",
    "TenantName",
    "UserName",
    "checked_tenant",
    "hostname_of",
]

_MACHINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_GROUP = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_TENANT = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_LONGEST_SHOWN = 70


def _show(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_SHOWN else name[:_LONGEST_SHOWN] + "...")


def _machine_name(name: str) -> str:
    if _MACHINE.fullmatch(name) is None or ".." in name:
        raise ValueError(
            f"{_show(name)} is not a machine's name: 1 to 63 letters, digits, '.', '_' and '-', "
            "the first a letter or a digit, and no '..'"
        )
    return name


def _host_name(name: str) -> str:
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(
            f"{_show(name)} is not a host name: labels of 1 to 63 letters, digits and '-', "
            "separated by '.' (RFC 1123)"
        )
    return name


def _group_name(name: str) -> str:
    if _GROUP.fullmatch(name) is None:
        raise ValueError(
            f"{_show(name)} is not a security group's name: 1 to 32 lower-case letters, digits, "
            "'_' and '-', the first a letter"
        )
    return name


def _tenant_name(name: str) -> str:
    if _TENANT.fullmatch(name) is None:
        raise ValueError(
            f"{_show(name)} is not a tenant's name: 1 to 32 lower-case letters, digits, '_' and "
            "'-', the first a letter"
        )
    return name


def _user_name(name: str) -> str:
    if _USER.fullmatch(name) is None:
        raise ValueError(
            f"{_show(name)} is not a user's name: 1 to 32 lower-case letters, digits, '_' and '-', "
            "the first a letter or '_'"
        )
    return name


MachineName = Annotated[
    str,
    AfterValidator(_machine_name),
    Field(json_schema_extra={"pattern": f"^{_MACHINE.pattern}$"}),
]
GroupName = Annotated[
    str, AfterValidator(_group_name), Field(json_schema_extra={"pattern": f"^{_GROUP.pattern}$"})
]
HostName = Annotated[str, AfterValidator(_host_name)]
TenantName = Annotated[
    str, AfterValidator(_tenant_name), Field(json_schema_extra={"pattern": f"^{_TENANT.pattern}$"})
]
UserName = Annotated[
    str, AfterValidator(_user_name), Field(json_schema_extra={"pattern": f"^{_USER.pattern}$"})
]


def checked_tenant(name: str) -> str:
    """Return a tenant's name that was given without a spec.

    Raises:
        UsageError: It is none.
    """
    try:
        return _tenant_name(name)
    except ValueError as error:
        raise UsageError(str(error), hint="give a name such as `acme`") from error


def hostname_of(name: str) -> str:
    """Turn a machine's name into a host name: ``Web_1.a`` becomes ``web-1-a``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-")
