"""Domains by name: looked up, listed, and reserved by defining them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import libvirt

from vmctl.errors import ConflictError, NotFoundError, VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import STATES, Domain, State, record_of
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.metadata import Record

__all__ = ["Listed", "define", "find", "list_domains", "name_is_taken"]


def define(connection: Connection, xml: str, *, name: str, uuid: str) -> Domain:
    """Define a new domain: the atomic step that reserves its name.

    Raises:
        ConflictError: There is a domain of that name already; it stays untouched.
    """

    def taken(_error: libvirt.libvirtError) -> VmctlError | None:
        with suppress(libvirt.libvirtError):
            if connection.raw.lookupByName(name).UUIDString() != uuid:
                return name_is_taken(name)
        return None

    with calling(f"define the machine '{name}'", on=taken):
        connection.raw.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    return Domain(connection, uuid, name)


def name_is_taken(name: str) -> ConflictError:
    """Return the error for a name that is in use."""
    return ConflictError(
        f"there is a machine '{name}' already",
        hint=f"choose another name, or remove it first: `vmctl delete {name}`",
    )


def find(connection: Connection, name: str) -> Domain:
    """Look a domain up by name or UUID.

    Raises:
        NotFoundError: There is none.
    """
    raw = connection.raw
    with calling(f"find the machine '{name}'"):
        for look_up in (raw.lookupByName, raw.lookupByUUIDString):
            try:
                found = look_up(name)
            except libvirt.libvirtError as error:
                gone = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG)
                if not is_code(error, *gone):
                    raise
            else:
                return Domain(connection, found.UUIDString(), found.name())
    raise NotFoundError(
        f"there is no machine '{name}' at {connection.uri}",
        hint="`vmctl list` shows what there is",
    )


@dataclass(frozen=True)
class Listed:
    """A domain in a list.

    Attributes:
        domain: It.
        state: Its state.
        record: vmctl's record of it, where it is vmctl's.
        readable: Whether that could be read; what a newer vmctl wrote may not.
    """

    domain: Domain
    state: State
    record: Record | None
    readable: bool = True


def list_domains(connection: Connection) -> list[Listed]:
    """Return every domain, sorted by name."""
    found = []
    with calling("list the machines"):
        for raw in connection.raw.listAllDomains():
            record, readable = None, True
            try:
                state = STATES[raw.state()[0]]
                record = record_of(raw)
            except ConflictError:
                readable = False
            except libvirt.libvirtError as error:
                # It went away between the list and the look.
                if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                    continue
                raise
            domain = Domain(connection, raw.UUIDString(), raw.name())
            found.append(Listed(domain, state, record, readable))
    return sorted(found, key=lambda entry: entry.domain.name)
