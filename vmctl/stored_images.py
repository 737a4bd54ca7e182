"""The base images that a pool has, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vmctl import bases
from vmctl.hypervisor import image_names
from vmctl.hypervisor.pools import Pool, facts_of
from vmctl.hypervisor.usage import VolumeUser, read_usage
from vmctl.hypervisor.volumes import list_volumes

__all__ = ["GivenName", "ImageInfo", "list_images"]


@dataclass(frozen=True, kw_only=True)
class GivenName:
    """A name of an image, and what is known of how it got it.

    Attributes:
        name: It.
        source: Where the image came from under that name.
        verified_by: What it was compared with; empty where it came from a file.
        user: Who the image's own cloud-init configuration logs in; empty where that isn't known,
            as with what follows.
        os: The operating system, by libosinfo's short id.
        arch: The guest's architecture.
        firmware: What it boots with at least, ``bios`` or ``uefi``.
        tenant: Whose the name is; empty for everybody's.
    """

    name: str
    source: str
    verified_by: str
    user: str = ""
    os: str = ""
    arch: str = ""
    firmware: str = ""
    tenant: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """A base image in the pool.

    Attributes:
        digest: SHA-256 of it, in hexadecimal.
        names: What it is called.
        virtual_size: Bytes a guest sees.
        allocation: Bytes that it takes in the pool.
        complete: Whether it is whole; one that isn't is being uploaded, or was left by a client
            that was killed.
        used_by: Machines and volumes that depend on it, whoever made them.
        clones: How many disks lie on it.
        saved: Bytes that those disks would take if each had a copy of its own.
        outgrows_pool: Whether a disk of it is larger than all of the pool, so that a guest that
            fills it fills the pool.
    """

    digest: str
    names: tuple[GivenName, ...]
    virtual_size: int
    allocation: int
    complete: bool
    used_by: tuple[VolumeUser, ...]
    clones: int
    saved: int
    outgrows_pool: bool = False

    def is_called(self, name: str) -> bool:
        """Return whether that is a name of it."""
        return any(entry.name == name for entry in self.names)


def list_images(pool: Pool) -> list[ImageInfo]:
    """Return the images of a pool, sorted by name."""
    names = image_names.list_names(pool)
    volumes = list_volumes(pool.connection, pool.name)
    # After that look through the pool: what lies on what, is known only from there.
    usage = read_usage(pool.connection)
    capacity = facts_of(pool.connection, pool.name).capacity
    found = []
    for volume in volumes:
        if not bases.is_base(volume.name):
            continue
        digest = bases.digest_of(volume.name)
        called = [entry for entry in names if entry.digest == digest]
        clones = sum(other.backing == volume.path for other in volumes)
        virtual_size = called[0].virtual_size if called else volume.capacity
        found.append(
            ImageInfo(
                digest=digest,
                names=tuple(
                    GivenName(
                        **{field.name: getattr(entry, field.name) for field in fields(GivenName)}
                    )
                    for entry in called
                ),
                virtual_size=virtual_size,
                allocation=volume.allocation,
                complete=bases.is_complete(pool, volume.name),
                used_by=bases.users_of(usage, pool, digest),
                clones=clones,
                saved=volume.allocation * max(clones - 1, 0),
                outgrows_pool=0 < capacity < virtual_size,
            )
        )
    return sorted(found, key=_order)


def _order(image: ImageInfo) -> tuple[list[str], str]:
    return [entry.name for entry in image.names] or ["~"], image.digest
