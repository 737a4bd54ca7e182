"""libvirt's packet filters: made, listed, and removed when nobody refers to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import ConflictError, HypervisorError, NotFoundError, UnsupportedError, VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code
from vmctl.render.filter_names import PREFIX, FilterDocument

__all__ = [
    "define",
    "ensure",
    "forget",
    "has_filters",
    "list_names",
    "missing",
    "read",
    "references",
    "remove_unused",
    "says",
    "unused",
]

_HINT = (
    "install libvirt's filters and ebtables on the host (Debian: libvirt-daemon-system, ebtables)"
)


def list_names(connection: Connection) -> set[str]:
    """Return the names of vmctl's filters; of a libvirt without filters, none."""
    with calling("list the packet filters"):
        try:
            found = connection.raw.listAllNWFilters(0)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
                return set()
            raise
    return {entry.name() for entry in found if entry.name().startswith(PREFIX)}


def has_filters(connection: Connection) -> bool:
    """Return whether the host's libvirt has packet filters at all."""
    with calling("list the packet filters"):
        try:
            connection.raw.numOfNWFilters()
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
                return False
            raise
    return True


def missing(connection: Connection, names: Iterable[str]) -> set[str]:
    """Return which of the filters aren't there."""
    wanted = set(names)
    return wanted - list_names(connection) if wanted else set()


def ensure(connection: Connection, documents: Sequence[FilterDocument]) -> None:
    """Define the filters that aren't there; the names of those that are say what they are.

    Args:
        connection: The host.
        documents: The filters, each behind those that it refers to.

    Raises:
        UnsupportedError: The host's libvirt has no packet filters.
    """
    absent = missing(connection, (document.name for document in documents))
    for document in dict.fromkeys(documents):
        if document.name in absent:
            define(connection, document)


def define(connection: Connection, document: FilterDocument) -> None:
    """Make a filter, or give it other rules: guests that run have them when this returns.

    Raises:
        UnsupportedError: The host's libvirt has no packet filters.
        HypervisorError: A running guest can't have it; all have what they had.
    """

    def refused(error: libvirt.libvirtError) -> VmctlError | None:
        if is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
            return UnsupportedError("the host's libvirt has no packet filters", hint=_HINT)
        if is_code(error, libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_OPERATION_FAILED):
            return HypervisorError(
                f"the host can't set up the packet filter '{document.name}'",
                code=error.get_error_code() or 0,
                details=error.get_error_message() or "",
                hint=_HINT,
            )
        return None

    with calling(f"define the packet filter '{document.name}'", on=refused):
        # Not validated: libvirt takes a `state` of IPv6 too, and its schema does not know of it.
        connection.raw.nwfilterDefineXML(document.xml)


def read(connection: Connection, name: str) -> etree._Element:
    """Return what a filter says.

    Raises:
        NotFoundError: There is no such filter.
    """
    with calling(f"read the packet filter '{name}'"):
        return etree.fromstring(_find(connection, name).XMLDesc(0))


def _find(connection: Connection, name: str) -> Any:
    try:
        return connection.raw.nwfilterLookupByName(name)
    except libvirt.libvirtError as error:
        if not is_code(error, libvirt.VIR_ERR_NO_NWFILTER, libvirt.VIR_ERR_NO_SUPPORT):
            raise
        raise NotFoundError(
            f"there is no packet filter '{name}' at {connection.uri}",
            hint="`virsh nwfilter-list` shows what there is",
        ) from error


def forget(connection: Connection, name: str) -> None:
    """Remove a filter; one that is gone is so already.

    Raises:
        ConflictError: A running guest, or another filter, has it.
    """

    def refused(error: libvirt.libvirtError) -> VmctlError | None:
        if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
            return None
        return ConflictError(
            f"the packet filter '{name}' is in use",
            details=error.get_error_message() or "",
            hint="delete the machines that have it, or detach their NICs",
        )

    with suppress(NotFoundError), calling(f"remove the packet filter '{name}'", on=refused):
        _find(connection, name).undefine()


def references(connection: Connection) -> set[str]:
    """Return the filters that machines refer to, running or not, and those that these refer to."""
    found: set[str] = set()
    with calling("look which machines have which packet filters"):
        for domain in connection.raw.listAllDomains(0):
            for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
                with suppress(libvirt.libvirtError):
                    root = etree.fromstring(domain.XMLDesc(flags))
                    found.update(
                        node.get("filter", "")
                        for node in root.iterfind("devices/interface/filterref")
                    )
    open_ = list(found)
    while open_:
        with suppress(NotFoundError):
            for node in read(connection, open_.pop()).iterfind("filterref"):
                name = node.get("filter", "")
                if name not in found:
                    found.add(name)
                    open_.append(name)
    return found


def unused(connection: Connection, kept: str) -> list[str]:
    """Return vmctl's filters that no machine refers to, those that refer to others first.

    Args:
        connection: The host.
        kept: The beginning of the names of those that stay all the same.
    """
    names = [name for name in list_names(connection) if not name.startswith(kept)]
    if not names:
        return []
    used = references(connection)
    # A group that nobody is in refers to what it is recorded with.
    for name in list_names(connection):
        if name.startswith(kept):
            with suppress(NotFoundError):
                nodes = read(connection, name).iterfind("filterref")
                used.update(node.get("filter", "") for node in nodes)
    idle = [name for name in names if name not in used]
    return sorted(idle, key=lambda name: (not _refers(connection, name), name))


def _refers(connection: Connection, name: str) -> bool:
    try:
        return read(connection, name).find("filterref") is not None
    except NotFoundError:
        return False


def remove_unused(connection: Connection, kept: str) -> list[str]:
    """Remove vmctl's filters that no machine refers to; one that was taken meanwhile stays.

    Returns:
        Which were removed.
    """
    removed = []
    for name in unused(connection, kept):
        with suppress(ConflictError):
            forget(connection, name)
            removed.append(name)
    return removed


def says(connection: Connection, document: FilterDocument) -> bool:
    """Return whether a filter is there and says the same; the order of what it says is nothing."""
    try:
        there = read(connection, document.name)
    except NotFoundError:
        return False
    return _content(there) == _content(etree.fromstring(document.xml))


def _content(root: etree._Element) -> list[str]:
    found = []
    for node in root:
        if node.tag == "uuid" or not isinstance(node.tag, str):
            continue
        parts = [(node.tag, sorted(node.attrib.items()))]
        parts += [(inner.tag, sorted(inner.attrib.items())) for inner in node]
        found.append(str(parts))
    return sorted(found)
