"""Snapshots as libvirt keeps them, those that other programs took included.

https://libvirt.org/formatsnapshot.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import ConflictError, NotFoundError, VmctlError
from vmctl.hypervisor.backups import set_aside
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.jobs import run_job

__all__ = [
    "EXTERNAL",
    "INTERNAL",
    "FrozenDisk",
    "SnapshotDetails",
    "SnapshotFacts",
    "busy_disks",
    "create",
    "create_external",
    "delete",
    "details_of",
    "exists",
    "forget",
    "has_internal",
    "know_internal",
    "list_details",
    "list_snapshots",
    "make_current",
    "name_is_taken",
    "names_of",
    "redefine",
    "revert",
    "set_state",
    "xml_of",
]

EXTERNAL = "external"
INTERNAL = "internal"


@dataclass(frozen=True, kw_only=True)
class SnapshotFacts:
    """One snapshot.

    Attributes:
        name: Its name.
        created: When, in UTC.
        state: The machine's state in it: ``running``, ``paused``, ``shut off``; ``disk-snapshot``
            where it ran and only its disks are in it.
        kind: ``internal``: it lies inside the machine's qcow2 disks; or ``external``: the disks'
            files were frozen, and the machine goes on in new ones on top of them.
        memory: Whether the memory of the running machine is in it.
        parent: The snapshot it was taken after; empty for a first one.
        current: Whether the machine goes on from it.
        description: What was said of it.
        why: Why it is of that kind, where it was taken just now.
    """

    name: str
    created: datetime
    state: str
    kind: str = INTERNAL
    memory: bool = False
    parent: str = ""
    current: bool = False
    description: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class FrozenDisk:
    """A disk as an external snapshot has it.

    Attributes:
        target: Its name on its bus.
        path: The file that was frozen; empty where it is none.
        format: How that is written.
        overlay: The file that the machine went on in at first.
    """

    target: str
    path: str
    format: str
    overlay: str


@dataclass(frozen=True, kw_only=True)
class SnapshotDetails:
    """One snapshot with all that it consists of.

    Attributes:
        facts: What a person sees of it.
        disks: The disks that it froze; none of an internal one.
        memory: The file with the machine's memory; empty where there is none.
        running: The machine as it was then, where it ran, else its definition: a ``domain``.
        definition: The definition of its next start then: a ``domain``.
    """

    facts: SnapshotFacts
    disks: tuple[FrozenDisk, ...]
    memory: str
    running: etree._Element
    definition: etree._Element

    @property
    def held(self) -> tuple[str, ...]:
        """The files that it can't be gone back to without: what it froze, and its memory."""
        found = [disk.path for disk in self.disks if disk.path]
        return (*found, *([self.memory] if self.memory else []))

    @property
    def files(self) -> tuple[str, ...]:
        """All files that it names: of disks in its definitions, of its memory."""
        found = [path for root in (self.running, self.definition) for path in _disk_paths(root)]
        return tuple(dict.fromkeys([*found, *([self.memory] if self.memory else [])]))


def _disk_paths(root: etree._Element) -> Iterator[str]:
    for source in root.findall("devices/disk/source"):
        path = source.get("file") or source.get("dev")
        if path:
            yield path


def list_snapshots(domain: Domain) -> list[SnapshotFacts]:
    """Return the snapshots, the oldest first."""
    return [entry.facts for entry in list_details(domain)]


def names_of(domain: Domain) -> frozenset[str]:
    """Return the names of the snapshots, which is quicker than all that there is to know."""
    with calling(f"list the snapshots of '{domain.name}'"):
        return frozenset(raw.getName() for raw in domain.raw().listAllSnapshots(0))


def list_details(domain: Domain, *, secure: bool = False) -> list[SnapshotDetails]:
    """Return the snapshots with what they consist of, the oldest first.

    Args:
        domain: The machine.
        secure: Whether secrets (a display's password) are in the definitions.
    """
    with calling(f"list the snapshots of '{domain.name}'"):
        found = []
        for raw in domain.raw().listAllSnapshots(0):
            try:
                found.append(_details(raw, secure=secure))
            except libvirt.libvirtError as error:
                # It went away between the list and the look.
                if not is_code(error, libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT):
                    raise
    depths = _depths({entry.facts.name: entry.facts.parent for entry in found})

    def age(entry: SnapshotDetails) -> tuple[datetime, int, str]:
        # libvirt counts in seconds: of two in one, that which the other was taken after is older.
        return entry.facts.created, depths[entry.facts.name], entry.facts.name

    return sorted(found, key=age)


def _depths(parents: dict[str, str]) -> dict[str, int]:
    """Return how many snapshots each was taken after, by its line of parents."""
    depths = {}
    for name in parents:
        line = [name]
        while (parent := parents.get(line[-1], "")) in parents and parent not in line:
            line.append(parent)
        depths[name] = len(line)
    return depths


def details_of(domain: Domain, name: str, *, secure: bool = False) -> SnapshotDetails:
    """Return one snapshot with what it consists of.

    Raises:
        NotFoundError: There is none of that name.
    """
    with calling(f"look at the snapshot '{name}' of '{domain.name}'"):
        return _details(_find(domain, name), secure=secure)


def has_internal(domain: Domain) -> bool:
    """Return whether any snapshot of it, whoever took it, lies in its disks themselves."""
    with calling(f"list the snapshots of '{domain.name}'"):
        internal = libvirt.VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL
        return bool(domain.raw().listAllSnapshots(internal))


def exists(domain: Domain, name: str) -> bool:
    """Return whether the machine has a snapshot of that name."""
    with calling(f"look for the snapshot '{name}' of '{domain.name}'"):
        try:
            domain.raw().snapshotLookupByName(name)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT):
                return False
            raise
    return True


def _details(raw: Any, *, secure: bool) -> SnapshotDetails:
    text = raw.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE if secure else 0)
    root = etree.fromstring(text)
    running = _domain_in(root, "domain")
    definition = _domain_in(root, "inactiveDomain")
    memory = root.find("memory")
    external = memory is not None and memory.get("snapshot") == EXTERNAL
    disks = tuple(_frozen(root, running))
    return SnapshotDetails(
        facts=_facts(raw, root, kind=EXTERNAL if disks or external else INTERNAL),
        disks=disks,
        memory=(memory.get("file") or "") if memory is not None and external else "",
        running=running if running is not None else etree.Element("domain"),
        definition=_first(definition, running),
    )


def _first(*nodes: etree._Element | None) -> etree._Element:
    return next((node for node in nodes if node is not None), etree.Element("domain"))


def _domain_in(root: etree._Element, tag: str) -> etree._Element | None:
    node = root.find(tag)
    if node is None:
        return None
    alone = etree.fromstring(etree.tostring(node))
    alone.tag = "domain"
    return alone


def _frozen(root: etree._Element, domain: etree._Element | None) -> Iterator[FrozenDisk]:
    below = {} if domain is None else _disks_by_target(domain)
    for node in root.findall(f"disks/disk[@snapshot='{EXTERNAL}']"):
        source, name = node.find("source"), node.get("name", "")
        path, form = below.get(name, ("", ""))
        yield FrozenDisk(
            target=name,
            path=path,
            format=form,
            overlay="" if source is None else source.get("file") or source.get("dev") or "",
        )


def _disks_by_target(domain: etree._Element) -> dict[str, tuple[str, str]]:
    found = {}
    for node in domain.findall("devices/disk"):
        source, driver, target = (node.find(tag) for tag in ("source", "driver", "target"))
        if source is not None and target is not None:
            path = source.get("file") or source.get("dev") or ""
            form = "raw" if driver is None else driver.get("type", "raw")
            found[target.get("dev", "")] = (path, form)
    return found


def _facts(raw: Any, root: etree._Element, *, kind: str) -> SnapshotFacts:
    memory = root.find("memory")
    return SnapshotFacts(
        name=raw.getName(),
        created=datetime.fromtimestamp(int(root.findtext("creationTime") or 0), UTC),
        # libvirt writes "shutoff" here, and "shut off" everywhere else.
        state=(root.findtext("state") or "").replace("shutoff", State.SHUT_OFF.value),
        kind=kind,
        memory=memory is not None and memory.get("snapshot") in {INTERNAL, EXTERNAL},
        parent=root.findtext("parent/name") or "",
        current=bool(raw.isCurrent(0)),
        description=root.findtext("description") or "",
    )


# -- taking ---------------------------------------------------------------------------------------


def name_is_taken(domain: Domain, name: str) -> ConflictError:
    """Return the error for a name that is in use."""
    return ConflictError(
        f"'{domain.name}' has a snapshot '{name}' already",
        hint="choose another name, or delete that one first",
    )


def create(domain: Domain, xml: str, *, name: str) -> SnapshotFacts:
    """Take an internal snapshot, with the memory of a running machine.

    Raises:
        ConflictError: There is one of that name.
    """

    def taken(_error: libvirt.libvirtError) -> VmctlError | None:
        return name_is_taken(domain, name) if exists(domain, name) else None

    with calling(f"take the snapshot '{name}' of '{domain.name}'", on=taken):
        raw = domain.raw().snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_VALIDATE)
        return _details(raw, secure=False).facts


def create_external(
    domain: Domain, xml: str, *, name: str, disk_only: bool, tell: Callable[[float], None]
) -> None:
    """Freeze the files of a machine's disks, all or none of them, over overlays that are there.

    When this is interrupted, the writing of the memory is aborted, and nothing was taken.

    Args:
        domain: The machine.
        xml: The snapshot's XML; the overlays that it names exist, and lie on the disks' files.
        name: Its name.
        disk_only: Whether no memory is in it.
        tell: Told how much of the memory is written, from 0 to 1.
    """
    flags = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_VALIDATE
    )
    if disk_only:
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    with domain.acting(f"take the snapshot '{name}' of") as raw:
        run_job(raw, lambda: raw.snapshotCreateXML(xml, flags), tell=tell)


def busy_disks(domain: Domain) -> tuple[str, ...]:
    """Return the disks of a running machine that a block job is at work on."""
    raw = domain.raw()
    found = []
    with calling(f"look for jobs on the disks of '{domain.name}'"):
        if not raw.isActive():
            return ()
        for node in etree.fromstring(raw.XMLDesc(0)).findall("devices/disk"):
            target = node.find("target")
            name = "" if target is None else target.get("dev", "")
            # An empty drive has no jobs, and can't be asked.
            if node.find("source") is not None and name and raw.blockJobInfo(name, 0):
                found.append(name)
    return tuple(found)


# -- going back, and what is known ----------------------------------------------------------------


def revert(domain: Domain, name: str) -> None:
    """Take the machine back to an internal snapshot."""
    with calling(f"revert '{domain.name}' to the snapshot '{name}'"):
        raw = _find(domain, name)
        domain.raw().revertToSnapshot(raw, 0)


def redefine(domain: Domain, xml: str, *, current: bool = False) -> None:
    """Correct what libvirt knows of a snapshot that there is; nothing of it is done.

    Args:
        domain: The machine.
        xml: All of its XML, secrets included.
        current: Whether the machine goes on from it now.
    """
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
    if current:
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
    with (
        set_aside(domain),
        calling(f"correct what is known of a snapshot of '{domain.name}'"),
    ):
        domain.raw().snapshotCreateXML(xml, flags)


def make_current(domain: Domain, name: str) -> None:
    """Let libvirt know that the machine goes on from a snapshot."""
    redefine(domain, xml_of(domain, name), current=True)


def set_state(domain: Domain, name: str, state: State) -> None:
    """Correct the state that a snapshot says that the machine was in."""
    root = etree.fromstring(xml_of(domain, name))
    node = root.find("state")
    if node is not None:
        node.text = state.value
        current = details_of(domain, name).facts.current
        redefine(domain, etree.tostring(root, encoding="unicode"), current=current)


def xml_of(domain: Domain, name: str) -> str:
    """Return all that libvirt knows of a snapshot, secrets included, for `redefine`."""
    with calling(f"look at the snapshot '{name}' of '{domain.name}'"):
        return str(_find(domain, name).getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE))


def delete(domain: Domain, name: str) -> None:
    """Delete an internal snapshot; what was taken after it stays."""
    with calling(f"delete the snapshot '{name}' of '{domain.name}'"):
        _find(domain, name).delete(0)


def know_internal(domain: Domain, name: str) -> None:
    """Let libvirt know of an internal snapshot that may lie in some of the disks, to delete it.

    Deleting one that a disk has not is no error to libvirt.
    """
    root = etree.Element("domainsnapshot")
    etree.SubElement(root, "name").text = name
    active = domain.is_active()
    etree.SubElement(root, "state").text = "running" if active else "shutoff"
    etree.SubElement(root, "creationTime").text = str(int(datetime.now(UTC).timestamp()))
    etree.SubElement(root, "memory", snapshot=INTERNAL if active else "no")
    root.append(etree.fromstring(domain.xml(inactive=True)))
    redefine(domain, etree.tostring(root, encoding="unicode"))


def forget(domain: Domain, name: str) -> None:
    """Delete what libvirt knows of a snapshot; its files stay, and all other snapshots their own.

    libvirt (9.0, qemuSnapshotDiscardMetadata) takes it for granted that the layers were merged, and
    leads every later snapshot that names an overlay of this one to the file underneath, though all
    files stay. So it is told of other overlays first, which nobody names.
    """
    root = etree.fromstring(xml_of(domain, name))
    for source in root.findall(f"disks/disk[@snapshot='{EXTERNAL}']/source"):
        if path := source.get("file"):
            source.set("file", f"{path}.forgotten")
    with calling(f"forget the snapshot '{name}' of '{domain.name}'"):
        raw = _find(domain, name)
        current = bool(raw.isCurrent(0))
        if root.find(f"disks/disk[@snapshot='{EXTERNAL}']") is not None:
            redefine(domain, etree.tostring(root, encoding="unicode"), current=current)
        _find(domain, name).delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


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
