"""What a clone is made of: a machine's disks and all that lies beside them, as they are found."""

from __future__ import annotations

from collections.abc import Iterator
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

__all__ = ["CopiedPart", "Origin", "look_at", "refuse_unready"]


@dataclass(frozen=True, kw_only=True)
class CopiedPart:
    """A volume of a machine that its clone gets a copy of.

    Attributes:
        path: Where the machine says that it is.
        volume: The volume that is there.
        role: What it is for.
        suffix: How the copy's name ends.
        format: How the copy is written: ``qcow2`` or ``raw``.
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
    """A machine that is cloned, as it was found.

    Attributes:
        domain: It.
        record: What vmctl knows of it.
        definition: Its definition, secrets and all.
        running: Whether QEMU is there for it.
        parts: What is copied.
        console_log: Path of its console log; empty for none.
        nvram: Path of UEFI's variables; empty for none.
        nvram_is_volume: Whether those are in a volume that is there, or will be.
        empty_drives: Targets of the CD-ROM drives that nothing is in.
    """

    domain: Domain
    record: Record
    definition: str
    running: bool
    parts: tuple[CopiedPart, ...]
    console_log: str
    nvram: str
    nvram_is_volume: bool
    empty_drives: frozenset[str]

    def nvram_volume(self) -> StoredVolume | None:
        """Return the volume with UEFI's variables; None where there is none (yet)."""
        owned = self.record.volume(Role.NVRAM)
        if not self.nvram or owned is None:
            return None
        # libvirt makes it at the first start, and its pool has not seen it yet.
        pools.refresh(self.domain.connection, owned.pool)
        volume = StoredVolume(self.domain.connection, owned.pool, owned.name)
        return volume if volume.exists() else None


def refuse_unready(domain: Domain, record: Record) -> None:
    """Refuse a machine that is not whole, or not as its disks are.

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
    if record.volume(Role.SEED) is not None:
        raise WrongStateError(
            f"'{domain.name}' was never provisioned: its cloud-init seed is still needed",
            state=domain.state().value,
            hint=f"start it and wait: `vmctl start --wait {domain.name}`; or launch its spec again",
        )
    power.refuse_saved(domain, "cloned")


def look_at(domain: Domain, record: Record) -> Origin:
    """Look at all that a clone is made of.

    Raises:
        UnsupportedError: A disk can't be copied.
        NotFoundError: A volume is gone, or no pool has it.
        ConflictError: The running machine has other disks than its definition.
    """
    running = domain.is_active()
    definition = domain.secret_xml()
    root = etree.fromstring(definition)
    own = dict(_own_paths(domain.connection, record))
    parts = (
        *_disks(domain, running=running),
        *_others(domain.connection, record, own, root),
    )
    nvram = root.findtext("os/nvram") or ""
    nvram_source = root.find("os/nvram/source")
    if nvram_source is not None:
        nvram = nvram_source.get("file", "")
    return Origin(
        domain=domain,
        record=record,
        definition=definition,
        running=running,
        parts=parts,
        console_log=next((path for path, role in own.items() if role is Role.CONSOLE_LOG), ""),
        nvram=nvram,
        nvram_is_volume=record.volume(Role.NVRAM) is not None,
        empty_drives=frozenset(_empty_drives(root)),
    )


def _own_paths(connection: Connection, record: Record) -> Iterator[tuple[str, Role]]:
    for owned in record.volumes:
        yield pools.open_pool(connection, owned.pool).path_of(owned.name), owned.role


def _empty_drives(root: etree._Element) -> Iterator[str]:
    for node in root.findall("devices/disk[@device='cdrom']"):
        target = node.find("target")
        if node.find("source") is None and target is not None:
            yield target.get("dev", "")


def _disks(domain: Domain, *, running: bool) -> Iterator[CopiedPart]:
    disks = domain.disks()
    if running:
        live = [(disk.target, disk.path) for disk in blockjobs.live_disks(domain)]
        if live != [(disk.target, disk.path) for disk in disks]:
            raise ConflictError(
                f"the disks of '{domain.name}' will be others at its next start",
                hint="restart it first; or stop it, and clone what it will be",
            )
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
    form = "raw" if disk.format == "raw" else "qcow2"
    return CopiedPart(
        path=disk.path,
        volume=volume,
        role=Role.DISK,
        suffix=f"{disk.target}.{form}",
        format=form,
        capacity=facts.capacity,
        room=min(taken, facts.capacity),
        target=disk.target,
    )


def _others(
    connection: Connection, record: Record, own: dict[str, Role], root: etree._Element
) -> Iterator[CopiedPart]:
    """Find what the machine owns beside its disks, and is gone when it goes."""
    named = {str(value) for node in root.iter(etree.Element) for value in node.attrib.values()}
    named |= {node.text or "" for node in root.iter(etree.Element)}
    for path, role in own.items():
        if role not in {Role.MEDIUM, Role.KERNEL} or path not in named:
            continue
        try:
            volume = at_path(connection, path)
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
