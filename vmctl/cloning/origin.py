"""What a clone is made of: a machine's disks and all that lies beside them, as they are found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lxml import etree

from vmctl import power, settling
from vmctl.errors import ConflictError, NotFoundError, UnsupportedError, WrongStateError
from vmctl.hypervisor import blockjobs, pools
from vmctl.hypervisor.chains import read_chain
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import DiskFile, Domain
from vmctl.hypervisor.metadata import Phase, Record, Role
from vmctl.hypervisor.volumes import StoredVolume, at_path

__all__ = [
    "CopiedPart",
    "Origin",
    "copied_disks",
    "copied_others",
    "empty_drives",
    "look_at",
    "nvram_of",
    "own_path",
    "own_paths",
    "refuse_unready",
]


@dataclass(frozen=True, kw_only=True)
class CopiedPart:
    """A volume of a machine that its clone gets a copy of.

    Attributes:
        path: Where the machine says that it is.
        volume: The volume that is there.
        role: What it is for.
        suffix: How the copy's name ends.
        format: How it is written: ``qcow2``, ``raw`` ...
        capacity: What a guest sees, in bytes.
        room: Bytes that the copy may take.
        target: Of a disk, its name on its bus; empty for what is none.
    """

    path: str
    volume: StoredVolume
    role: Role
    suffix: str
    format: str
    capacity: int
    room: int
    target: str = ""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A machine that is cloned, as it is or as a snapshot has it.

    Attributes:
        domain: The machine.
        record: What vmctl knows of it; of a snapshot, with the spec of that time.
        definition: The definition, secrets and all.
        running: Whether its disks are written to while they are copied.
        parts: What is copied.
        console_log: Path of its console log; empty for none.
        nvram: Where the definition says that UEFI's variables are; empty for none.
        nvram_source: The path that they are read from; empty where no pool has them.
        empty_drives: Targets of the CD-ROM drives that nothing is in.
        notes: What is to be known of it.
        inside: The internal snapshots in its disks, first the one that the clone is made of; none
            where it is made of what the disks show.
    """

    domain: Domain
    record: Record
    definition: str
    running: bool
    parts: tuple[CopiedPart, ...]
    console_log: str
    nvram: str
    nvram_source: str
    empty_drives: frozenset[str]
    notes: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()

    def nvram_volume(self) -> StoredVolume | None:
        """Return the volume with UEFI's variables; None where there is none (yet)."""
        if not self.nvram_source:
            return None
        for pool in {owned.pool for owned in self.record.volumes}:
            # libvirt makes it at the first start, and its pool has not seen it yet.
            pools.refresh(self.domain.connection, pool)
        try:
            return at_path(self.domain.connection, self.nvram_source)
        except NotFoundError:
            return None


def refuse_unready(domain: Domain, record: Record) -> Record:
    """Refuse a machine that is not whole, or not as its disks are.

    What a killed client left of some work on its disks is settled first.

    Returns:
        Its record as it is then.

    Raises:
        ConflictError: Somebody is at work on it.
        WrongStateError: It was never provisioned, or has a saved state.
    """
    at_work = record.claim is not None and not record.claim.is_abandoned()
    if at_work or record.phase in {Phase.CREATING, Phase.DELETING}:
        raise ConflictError(
            f"somebody is at work on '{domain.name}': it is {record.phase.value}",
            hint="wait until that has ended; `vmctl gc` removes what a killed client left",
        )
    if record.phase.is_detour:
        settling.settle(domain, record)
        record = domain.record() or record
    if record.volume(Role.SEED) is not None:
        raise WrongStateError(
            f"'{domain.name}' was never provisioned: its cloud-init seed is still needed",
            state=domain.state().value,
            hint=f"start it and wait: `vmctl start --wait {domain.name}`; or launch its spec again",
        )
    power.refuse_saved(domain, "cloned")
    return record


def look_at(domain: Domain, record: Record) -> Origin:
    """Look at all that a clone is made of.

    Raises:
        UnsupportedError: A disk can't be copied.
        NotFoundError: A volume is gone, or no pool has it.
        ConflictError: The running machine has other disks than its definition.
    """
    running = domain.is_active()
    definition = domain.secret_xml()
    disks = domain.disks()
    if running:
        live = [(disk.target, disk.path) for disk in blockjobs.live_disks(domain)]
        if live != [(disk.target, disk.path) for disk in disks]:
            raise ConflictError(
                f"the disks of '{domain.name}' will be others at its next start",
                hint="restart it first; or stop it, and clone what it will be",
            )
    root = etree.fromstring(definition)
    nvram = nvram_of(root)
    own = own_paths(domain.connection, record)
    return Origin(
        domain=domain,
        record=record,
        definition=definition,
        running=running,
        parts=(*copied_disks(domain, disks), *copied_others(domain, record, own, root)),
        console_log=own_path(own, Role.CONSOLE_LOG),
        nvram=nvram,
        nvram_source=nvram if own.get(nvram) is Role.NVRAM else "",
        empty_drives=frozenset(empty_drives(root)),
    )


def nvram_of(root: etree._Element) -> str:
    """Return where a definition says that UEFI's variables are; empty for a BIOS."""
    source = root.find("os/nvram/source")
    return (source.get("file") if source is not None else root.findtext("os/nvram")) or ""


def own_paths(connection: Connection, record: Record) -> dict[str, Role]:
    """Return where on the host a machine's own volumes are, or would be, and what they are for."""
    return {
        pools.open_pool(connection, owned.pool).path_of(owned.name): owned.role
        for owned in record.volumes
    }


def own_path(own: dict[str, Role], role: Role) -> str:
    """Return the path of the first of them of a role; empty for none."""
    return next((path for path, found in own.items() if found is role), "")


def empty_drives(root: etree._Element) -> Iterator[str]:
    """Yield the targets of the CD-ROM drives that nothing is in."""
    for node in root.findall("devices/disk[@device='cdrom']"):
        target = node.find("target")
        if node.find("source") is None and target is not None:
            yield target.get("dev", "")


def copied_disks(domain: Domain, disks: Iterable[DiskFile]) -> Iterator[CopiedPart]:
    """Yield what a clone gets copies of: all disks but those that nobody may write to.

    Raises:
        UnsupportedError: A disk can't be copied.
        NotFoundError: A volume is gone, or no pool has it.
    """
    for disk in disks:
        if not disk.path:
            raise UnsupportedError(
                f"the disk {disk.target} of '{domain.name}' is a server's, and not a volume",
                hint="detach it first; two machines that write to it would destroy what is on it",
            )
        if not disk.read_only:
            yield _disk(domain, disk)


def _disk(domain: Domain, disk: DiskFile) -> CopiedPart:
    volume = at_path(domain.connection, disk.path)
    pools.refresh(domain.connection, volume.pool)
    facts = volume.facts()
    layers = read_chain(domain.connection, disk.path, disk.format)
    taken = sum(layer.allocation or 0 for layer in layers)
    return CopiedPart(
        path=disk.path,
        volume=volume,
        role=Role.DISK,
        suffix=disk.target,
        format=disk.format,
        capacity=facts.capacity,
        room=min(taken, facts.capacity),
        target=disk.target,
    )


def copied_others(
    domain: Domain, record: Record, own: dict[str, Role], root: etree._Element
) -> Iterator[CopiedPart]:
    """Yield what the machine owns beside its disks and its definition names: it goes with it."""
    named = {str(value) for node in root.iter(etree.Element) for value in node.attrib.values()}
    named |= {node.text or "" for node in root.iter(etree.Element)}
    for path, role in own.items():
        if role not in {Role.MEDIUM, Role.KERNEL} or path not in named:
            continue
        try:
            volume = at_path(domain.connection, path)
        except NotFoundError:
            continue
        facts = volume.facts()
        yield CopiedPart(
            path=path,
            volume=volume,
            role=role,
            # MACHINE.UUID.cdroms0.iso, for example.
            suffix=volume.name.rpartition(f".{record.uuid}.")[2],
            format="raw",
            capacity=facts.capacity,
            room=facts.allocation,
        )
