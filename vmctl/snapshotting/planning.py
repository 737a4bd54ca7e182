"""What an external snapshot is going to consist of: worked out and checked before any of it is."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from vmctl.errors import ConflictError, NotFoundError, ResourceError, UnsupportedError
from vmctl.hypervisor import hotplug, pools
from vmctl.hypervisor.chains import read_chain
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.dumps import memory_of
from vmctl.hypervisor.metadata import OwnedVolume, Record, Role
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.render.snapshot import render_external_snapshot
from vmctl.render.volume import render_volume
from vmctl.snapshotting.choosing import MachineShape
from vmctl.snapshotting.files import look_up
from vmctl.snapshotting.looking import drive_targets
from vmctl.snapshotting.naming import memory_name, variables_name

__all__ = [
    "Overlay",
    "SnapshotPlan",
    "VariablesCopy",
    "plan_overlay",
    "plan_snapshot",
    "plan_variables",
    "refuse_without_room_inside",
]

# The devices' state, and the image's own tables.
_BESIDE_MEMORY = 64 << 20
# A chain gets slow long before QEMU gives up on it, and what is merged needs some room.
_MOST_LAYERS = 150


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A file that a disk goes on in, on top of one that is frozen.

    Attributes:
        target: The disk's name on its bus.
        owned: The new file.
        capacity: What the guest sees, in bytes.
        below: The path of the file underneath.
        format: How that is written.
    """

    target: str
    owned: OwnedVolume
    capacity: int
    below: str
    format: str

    def make(self, domain: Domain) -> None:
        """Make it; it is empty, and reads as what is underneath."""
        StoredVolume(domain.connection, self.owned.pool, self.owned.name).create(
            render_volume(
                self.owned.name,
                capacity=self.capacity,
                format="qcow2",
                backing_path=self.below,
                backing_format=self.format,
            )
        )

    def path(self, domain: Domain) -> str:
        """Return where it is, or will be, on the host."""
        return open_pool(domain.connection, self.owned.pool).path_of(self.owned.name)


@dataclass(frozen=True, kw_only=True)
class VariablesCopy:
    """A copy of UEFI's variables.

    Attributes:
        source: What is copied.
        owned: The copy.
    """

    source: StoredVolume
    owned: OwnedVolume

    def make(self) -> None:
        """Copy them, byte by byte: a guest writes to them, and the host's own copy would probe."""
        content = self.source.read()
        copy = StoredVolume(self.source.connection, self.owned.pool, self.owned.name)
        copy.create(render_volume(copy.name, capacity=len(content), format="raw"))
        copy.write(content)


@dataclass(frozen=True, kw_only=True)
class SnapshotPlan:
    """All that a snapshot makes.

    Attributes:
        name: Its name.
        overlays: A file for each disk that is written to.
        left_out: The targets of the disks and drives that are not in it.
        memory: The file with the memory; None: it is not in it.
        variables: The copy of UEFI's variables; None where there are none.
    """

    name: str
    overlays: tuple[Overlay, ...]
    left_out: tuple[str, ...]
    memory: OwnedVolume | None
    variables: VariablesCopy | None

    @property
    def volumes(self) -> tuple[OwnedVolume, ...]:
        """All volumes that are made."""
        more = (self.memory, None if self.variables is None else self.variables.owned)
        return (
            *(overlay.owned for overlay in self.overlays),
            *(volume for volume in more if volume is not None),
        )

    def xml(self, domain: Domain, *, description: str) -> str:
        """Return the snapshot's XML."""
        memory = self.memory
        found: dict[str, str | None] = dict.fromkeys(self.left_out)
        found |= {overlay.target: overlay.path(domain) for overlay in self.overlays}
        return render_external_snapshot(
            self.name,
            overlays=found,
            memory=None
            if memory is None
            else open_pool(domain.connection, memory.pool).path_of(memory.name),
            description=description,
        )


def plan_snapshot(
    domain: Domain, record: Record, shape: MachineShape, *, name: str, memory: bool
) -> SnapshotPlan:
    """Work out what an external snapshot makes.

    Args:
        domain: The machine.
        record: What vmctl knows of it.
        shape: What it is.
        name: The snapshot's name.
        memory: Whether its memory is in it.

    Raises:
        ConflictError: A disk comes or goes at the next start, or is made of too many layers.
        UnsupportedError: A disk, or the memory, has no place in any pool of files.
        ResourceError: There is no room for the memory.
    """
    _refuse_disks_in_waiting(domain)
    _refuse_long_chains(domain, shape)
    root = hotplug.definition(domain, later=not shape.active)
    pool = _pool_of_files(domain, record)
    overlays = tuple(
        plan_overlay(domain, disk.target, _source_of(root, disk.target), disk.format, pool)
        for disk in shape.disks
    )
    frozen = {disk.target for disk in shape.disks}
    return SnapshotPlan(
        name=name,
        overlays=overlays,
        left_out=tuple(target for target in drive_targets(root) if target not in frozen),
        memory=_plan_memory(domain, pool, name) if memory else None,
        variables=plan_variables(domain, root, pool, variables_name(domain, name)),
    )


def _refuse_disks_in_waiting(domain: Domain) -> None:
    """A disk that the running machine has, or its definition, and not both, would be forgotten."""
    if not domain.is_active():
        return
    now, later = (set(_disks(hotplug.definition(domain, later=later))) for later in (False, True))
    for target, _source in sorted(now ^ later):
        raise ConflictError(
            f"the disk '{target}' of '{domain.name}' comes, goes or changes at its next start",
            hint="restart it first, or stop it: then all of its disks are in the snapshot",
        )


def _refuse_long_chains(domain: Domain, shape: MachineShape) -> None:
    for disk in domain.disks():
        if disk.target not in {entry.target for entry in shape.disks}:
            continue
        layers = len(read_chain(domain.connection, disk.path, disk.format))
        if layers >= _MOST_LAYERS:
            raise ConflictError(
                f"the disk '{disk.target}' of '{domain.name}' is made of {layers} layers already",
                hint=f"delete snapshots first: `vmctl snapshot prune {domain.name}`",
            )


def _disks(root: etree._Element) -> Iterator[tuple[str, str]]:
    for node in hotplug.device_nodes(root, "disk"):
        if node.get("device", "disk") == "disk":
            yield hotplug.identity_of(node), hotplug.source_of(node)


def _source_of(root: etree._Element, target: str) -> str:
    node = hotplug.find_node(root, "disk", target)
    return "" if node is None else hotplug.source_of(node)


def _pool_of_files(domain: Domain, record: Record) -> str:
    """Return the machine's pool, which takes what has no other place."""
    for volume in record.volumes:
        if pools.facts_of(domain.connection, volume.pool).type in pools.FILE_POOLS:
            return volume.pool
    raise UnsupportedError(
        f"'{domain.name}' has nothing in a pool of files, where a snapshot could lie",
        hint="a snapshot needs files: see the kinds of pools by `vmctl pool list`",
    )


def plan_overlay(domain: Domain, target: str, below: str, form: str, pool: str) -> Overlay:
    """Work out the file that a disk goes on in.

    Args:
        domain: The machine.
        target: The disk's name on its bus.
        below: The file or device that is frozen.
        form: How that is written.
        pool: Where it lies, where the disk itself is in no pool of files.

    Raises:
        NotFoundError: What is frozen is a file in no pool.
    """
    where, capacity = _place_of(domain, target, below, pool)
    return Overlay(
        target=target,
        owned=OwnedVolume(
            pool=where,
            # The same name may come again: after a revert, or after the snapshot was deleted.
            name=f"{domain.uuid}.{target}.{secrets.token_hex(4)}.qcow2",
            role=Role.DISK,
        ),
        capacity=capacity,
        below=below,
        format=form,
    )


def _place_of(domain: Domain, target: str, below: str, pool: str) -> tuple[str, int]:
    """Return the pool for what lies on a file or device, and how large it is."""
    try:
        found = look_up(domain, below)
    except NotFoundError:
        # A device need not be in a pool; its size is that of the disk that is there.
        size = hotplug.capacity(domain, target) if below.startswith("/dev/") else None
        if size is None:
            raise
        return pool, size
    of_files = pools.facts_of(domain.connection, found.pool).type in pools.FILE_POOLS
    return found.pool if of_files else pool, found.facts().capacity


def refuse_without_room_inside(domain: Domain, shape: MachineShape) -> None:
    """Refuse an internal snapshot with memory, which QEMU writes into a disk, where it has no room.

    Raises:
        ResourceError: There may be none; a pool that fills up halts other guests as well.
    """
    root = hotplug.definition(domain, later=False)
    try:
        pool = look_up(domain, _source_of(root, shape.disks[0].target)).pool
    except NotFoundError:
        # Nobody knows what is free there.
        return
    _refuse_without_room(domain, pool)


def _plan_memory(domain: Domain, pool: str, name: str) -> OwnedVolume:
    _refuse_without_room(domain, pool)
    return OwnedVolume(pool=pool, name=memory_name(domain, name), role=Role.SNAPSHOT_MEMORY)


def _refuse_without_room(domain: Domain, pool: str) -> None:
    pools.refresh(domain.connection, pool)
    needed = memory_of(domain) + _BESIDE_MEMORY
    available = pools.facts_of(domain.connection, pool).available
    if available < needed:
        raise ResourceError(
            f"the pool '{pool}' has no room for the memory of '{domain.name}': it takes up to "
            f"{needed} bytes, and {available} are free",
            hint="make room there, or snapshot the disks alone, by --no-memory or memory=False",
        )


def plan_variables(
    domain: Domain, root: etree._Element, pool: str, name: str
) -> VariablesCopy | None:
    """Work out the copy of the machine's variables; None: it has none, or was never started."""
    path = root.findtext("os/nvram") or ""
    if not path:
        return None
    try:
        source = look_up(domain, path)
    except NotFoundError as error:
        owned = path.rpartition("/")[0] == open_pool(domain.connection, pool).folder
        if owned and not domain.is_active():
            return None
        raise UnsupportedError(
            f"the UEFI variables of '{domain.name}' are at {path}, in no pool, "
            "so they can't be in a snapshot",
            hint="make a pool of that folder; or export the machine and import it anew",
        ) from error
    return VariablesCopy(
        source=source, owned=OwnedVolume(pool=pool, name=name, role=Role.SNAPSHOT_NVRAM)
    )
