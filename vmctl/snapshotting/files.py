"""Which files a machine with snapshots consists of, and which of its volumes nothing needs.

A machine's heads are its definition, the running machine, and each of its snapshots. A file is
needed if a head names it, or if it lies underneath one that is needed. Nothing else counts: not a
name, not an order in which things were made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lxml import etree

from vmctl.errors import NotFoundError
from vmctl.hypervisor import pools
from vmctl.hypervisor.chains import read_chain
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import OwnedVolume, Record, Role
from vmctl.hypervisor.snapshots import SnapshotDetails, list_details
from vmctl.hypervisor.usage import VolumeUser, read_usage
from vmctl.hypervisor.volumes import StoredVolume, at_path
from vmctl.snapshotting.naming import memory_name, variables_name

__all__ = [
    "Heads",
    "attached_below",
    "is_file_in_pool",
    "look_up",
    "made_by_others",
    "owned_chain",
    "read_heads",
    "size_of",
    "sweep",
]


@dataclass(frozen=True)
class Heads:
    """The files of a machine, by who needs them.

    Attributes:
        present: Those that its definition names, and the running machine, the variables included.
        snapshots: Those that its snapshots name.
        below: Those that lie underneath these.
    """

    present: frozenset[str]
    snapshots: frozenset[str]
    below: frozenset[str]

    @property
    def needed(self) -> frozenset[str]:
        """All of them."""
        return self.present | self.snapshots | self.below


def read_heads(domain: Domain, snapshots: Iterable[SnapshotDetails] | None = None) -> Heads:
    """Look at a machine, at its snapshots, and at what is underneath.

    Args:
        domain: The machine.
        snapshots: Its snapshots, where they were read already.
    """
    details = list_details(domain) if snapshots is None else list(snapshots)
    texts = [domain.xml(inactive=True)]
    if domain.is_active():
        texts.append(domain.xml())
    present = {path for text in texts for path in _files_in(etree.fromstring(text))}
    held = {path for entry in details for path in entry.files}
    below = {
        layer.path
        for path in present | held
        for layer in read_chain(domain.connection, path, "")[1:]
    }
    return Heads(frozenset(present), frozenset(held), frozenset(below))


def _files_in(root: etree._Element) -> Iterator[str]:
    for source in root.findall("devices/disk/source"):
        path = source.get("file") or source.get("dev")
        if path:
            yield path
    nvram = root.findtext("os/nvram")
    if nvram:
        yield nvram


def owned_chain(domain: Domain, record: Record, paths: Iterable[str]) -> tuple[OwnedVolume, ...]:
    """Return the machine's own volumes among files and what is underneath, the uppermost first.

    What lies on a volume of the machine's is the machine's too, whoever made it: an overlay of
    virsh's, for example.
    """
    own = {(volume.pool, volume.name): volume for volume in record.volumes}
    found: dict[OwnedVolume, None] = {}
    for path in paths:
        layers = [
            _volume_at(domain, layer.path) for layer in read_chain(domain.connection, path, "")
        ]
        last = max((n for n, layer in enumerate(layers) if layer in own), default=-1)
        for layer in layers[: last + 1]:
            if layer is not None:
                fresh = OwnedVolume(pool=layer[0], name=layer[1], role=Role.DISK)
                found[own.get(layer, fresh)] = None
    return tuple(found)


def _volume_at(domain: Domain, path: str) -> tuple[str, str] | None:
    try:
        volume = look_up(domain, path)
    except NotFoundError:
        return None
    return volume.pool, volume.name


def look_up(domain: Domain, path: str) -> StoredVolume:
    """Return the volume at a path, also one that its pool has not seen yet.

    libvirt, and other programs, make files beside the pool's back.

    Raises:
        NotFoundError: No pool that runs has one there.
    """
    try:
        return at_path(domain.connection, path)
    except NotFoundError:
        folder = path.rpartition("/")[0]
        for facts in pools.list_pools(domain.connection):
            if facts.state == "running" and facts.target == folder:
                pools.refresh(domain.connection, facts.name)
        return at_path(domain.connection, path)


def made_by_others(domain: Domain, record: Record) -> tuple[OwnedVolume, ...]:
    """Return the files of a machine's snapshots that are not in its record, as those of virsh.

    They lie on volumes of the machine's, or hold its memory, and are in a pool.
    """
    details = list_details(domain)
    if not details:
        return ()
    for pool in {volume.pool for volume in record.volumes}:
        pools.refresh(domain.connection, pool)
    heads = read_heads(domain, details)
    known = set(record.volumes)
    chain = owned_chain(domain, record, sorted(heads.present | heads.snapshots))
    memories = [
        OwnedVolume(pool=where[0], name=where[1], role=Role.SNAPSHOT_MEMORY)
        for entry in details
        if entry.memory and (where := _volume_at(domain, entry.memory)) is not None
    ]
    names = {(volume.pool, volume.name) for volume in known}
    return tuple(
        volume
        for volume in dict.fromkeys([*chain, *memories])
        if (volume.pool, volume.name) not in names
    )


def sweep(domain: Domain, candidates: Iterable[OwnedVolume]) -> tuple[OwnedVolume, ...]:
    """Delete those of a machine's volumes that nothing needs any more.

    Args:
        domain: The machine.
        candidates: Volumes that the machine owns; what else there is stays.

    Returns:
        Those that are gone, or never were.
    """
    wanted = list(dict.fromkeys(candidates))
    if not wanted:
        return ()
    places = {volume.pool: pools.open_pool(domain.connection, volume.pool) for volume in wanted}
    for place in places.values():
        # What lies on what is seen only when libvirt looks through a pool.
        place.refresh()
    needed = read_heads(domain).needed
    usage = read_usage(domain.connection)
    gone: dict[str, OwnedVolume] = {}
    while True:
        free = {
            f"{volume.pool}/{volume.name}": volume
            for volume in wanted
            if volume not in gone.values()
            and (path := places[volume.pool].path_of(volume.name)) not in needed
            and all(
                user == VolumeUser("machine", domain.name)
                or (user.kind == "volume" and user.name in gone)
                for user in usage.users(volume.pool, volume.name, path)
            )
        }
        if not free:
            return tuple(gone.values())
        for volume in free.values():
            StoredVolume(domain.connection, volume.pool, volume.name).delete()
        gone |= free


def attached_below(
    domain: Domain, record: Record, chain: Sequence[str], own: Collection[str]
) -> str:
    """Return the volume that a person attached, underneath layers that are the machine's own.

    Args:
        domain: The machine.
        record: What vmctl knows of it.
        chain: The layers of a disk, the uppermost first.
        own: The paths that are the machine's own.

    Returns:
        Its path; empty where there is none, or it is the uppermost.
    """
    attached = {
        disk["volume"]
        for disk in record.spec.get("disks") or ()
        if disk.get("volume") and not disk.get("read_only")
    }
    below = [path for path in chain if path not in own]
    if not attached or not below or below[0] == chain[0]:
        return ""
    # As it can be named in a spec.
    names = {below[0]}
    with suppress(NotFoundError):
        found = look_up(domain, below[0])
        names |= {found.name, f"{found.pool}/{found.name}"}
    return below[0] if attached & names else ""


def is_file_in_pool(domain: Domain, path: str) -> bool:
    """Return whether a layer can be merged into what is at a path: devices stay as they are."""
    try:
        pool = look_up(domain, path).pool
    except NotFoundError:
        return False
    return pools.facts_of(domain.connection, pool).type in pools.FILE_POOLS


def size_of(domain: Domain, record: Record, details: SnapshotDetails) -> int:
    """Return the bytes on the host of a snapshot's memory and variables and of its frozen layers.

    A machine's first disk files are not counted: without the snapshot they would be there as well.
    """
    layers = {disk.path for disk in details.disks}
    named = {memory_name(domain, details.facts.name), variables_name(domain, details.facts.name)}
    size = 0
    for volume in record.volumes:
        stored = StoredVolume(domain.connection, volume.pool, volume.name)
        path = pools.open_pool(domain.connection, volume.pool).path_of(volume.name)
        if volume.name in named or (path in layers and domain.uuid == volume.name[:36]):
            # Somebody may have removed it by hand; the doctor says that.
            with suppress(NotFoundError):
                size += stored.facts().allocation
    return size
