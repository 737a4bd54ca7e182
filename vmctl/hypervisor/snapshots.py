"""Snapshots as libvirt keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import ConflictError, NotFoundError, VmctlError
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["SnapshotFacts", "create", "delete", "has_internal", "list_snapshots", "revert"]


@dataclass(frozen=True, kw_only=True)
class SnapshotFacts:
    """One snapshot.

    Attributes:
        name: Its name.
        created: When, in UTC.
        state: The machine's state in it: ``running`` (its memory is in it), ``shut off`` ...
        parent: The snapshot it was taken after; empty for a first one.
        current: Whether the machine goes on from it.
        description: What was said of it.
    """

    name: str
    created: datetime
    state: str
    parent: str = ""
    current: bool = False
    description: str = ""


def list_snapshots(domain: Domain) -> list[SnapshotFacts]:
    """Return the snapshots, the oldest first."""
    with calling(f"list the snapshots of '{domain.name}'"):
        found = [_facts(raw) for raw in domain.raw().listAllSnapshots(0)]
    return sorted(found, key=lambda entry: (entry.created, entry.name))


def has_internal(domain: Domain) -> bool:
    """Return whether any snapshot of it, whoever took it, lies in its disks themselves."""
    with calling(f"list the snapshots of '{domain.name}'"):
        internal = libvirt.VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL
        return bool(domain.raw().listAllSnapshots(internal))


def _facts(raw: Any) -> SnapshotFacts:
    root = etree.fromstring(raw.getXMLDesc(0))
    return SnapshotFacts(
        name=raw.getName(),
        created=datetime.fromtimestamp(int(root.findtext("creationTime") or 0), UTC),
        # libvirt writes "shutoff" here, and "shut off" everywhere else.
        state=(root.findtext("state") or "").replace("shutoff", State.SHUT_OFF.value),
        parent=root.findtext("parent/name") or "",
        current=bool(raw.isCurrent(0)),
        description=root.findtext("description") or "",
    )


def create(domain: Domain, xml: str, *, name: str) -> SnapshotFacts:
    """Take an internal snapshot, with the memory of a running machine.

    Raises:
        ConflictError: There is one of that name.
    """

    def taken(_error: libvirt.libvirtError) -> VmctlError | None:
        if any(entry.name == name for entry in list_snapshots(domain)):
            return ConflictError(
                f"'{domain.name}' has a snapshot '{name}' already",
                hint="choose another name, or delete that one first",
            )
        return None

    with calling(f"take the snapshot '{name}' of '{domain.name}'", on=taken):
        return _facts(
            domain.raw().snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_VALIDATE)
        )


def revert(domain: Domain, name: str) -> None:
    """Take the machine back to a snapshot."""
    with calling(f"revert '{domain.name}' to the snapshot '{name}'"):
        raw = _find(domain, name)
        domain.raw().revertToSnapshot(raw, 0)


def delete(domain: Domain, name: str) -> None:
    """Delete a snapshot; what was taken after it stays."""
    with calling(f"delete the snapshot '{name}' of '{domain.name}'"):
        _find(domain, name).delete(0)


def _find(domain: Domain, name: str) -> Any:
    try:
        return domain.raw().snapshotLookupByName(name)
    except libvirt.libvirtError as error:
        if not is_code(error, libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT):
            raise
        raise NotFoundError(
            f"'{domain.name}' has no snapshot '{name}'",
            hint=f"`vmctl snapshot list {domain.name}` shows what there is",
        ) from error
