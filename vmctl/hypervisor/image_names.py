"""The names of images, kept in the pool beside them, where every client finds them.

A volume has no metadata in libvirt. So ``NAME.vmctl-image`` is a small volume that says which image
is meant by NAME, and where it came from.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from vmctl.errors import ConflictError, NotFoundError
from vmctl.hypervisor.pools import Pool
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.render.volume import render_volume

__all__ = [
    "ImageName",
    "is_name",
    "list_names",
    "read_name",
    "refuse_anothers",
    "remove_name",
    "write_name",
]

_SUFFIX = ".vmctl-image"
_SIZE = 4096


@dataclass(frozen=True, kw_only=True)
class ImageName:
    """What a name stands for.

    Attributes:
        name: It.
        digest: SHA-256 of the base image, in hexadecimal.
        virtual_size: Bytes a guest sees.
        source: Where it came from, for people: a URL without credentials, or a file's name.
        verified_by: What its bytes were compared with, for people.
        added: When, ISO 8601 in UTC.
        user: Who the image's own cloud-init configuration logs in; empty where that isn't known.
        os: The operating system, by libosinfo's short id; empty where that isn't known.
        arch: The guest's architecture, by libvirt's name; empty where that isn't known.
        firmware: What it boots with at least, ``bios`` or ``uefi``; empty where that isn't known.
        tenant: Whose the name is; empty for everybody's.
    """

    name: str
    digest: str
    virtual_size: int
    source: str = ""
    verified_by: str = ""
    added: str = ""
    user: str = ""
    os: str = ""
    arch: str = ""
    firmware: str = ""
    tenant: str = ""


def is_name(volume: str) -> bool:
    """Return whether a volume of that name keeps the name of an image."""
    return volume.endswith(_SUFFIX)


def _volume_of(pool: Pool, name: str) -> StoredVolume:
    return StoredVolume.of(pool, name + _SUFFIX)


def read_name(pool: Pool, name: str) -> ImageName | None:
    """Return what a name stands for; None for one that isn't there, or is just being written."""
    try:
        content = json.loads(_volume_of(pool, name).read(length=_SIZE))
        return ImageName(**content)
    except (NotFoundError, ValueError, TypeError):
        return None


def write_name(pool: Pool, entry: ImageName) -> None:
    """Let a name stand for an image; what it stood for before is forgotten.

    Raises:
        ConflictError: There is a volume of somebody else's where the name is to be kept, or the
            name is another tenant's.
    """
    refuse_anothers(pool, entry.name, entry.tenant)
    content = json.dumps(asdict(entry)).encode().ljust(_SIZE)
    volume = _volume_of(pool, entry.name)
    if not volume.exists():
        # Of two who give it at once, the one who writes last has it.
        with suppress(ConflictError):
            volume.create(render_volume(volume.name, capacity=_SIZE, format="raw"))
    elif not _may_be_a_note(volume):
        raise volume.name_is_taken()
    volume.write(content)


def refuse_anothers(pool: Pool, name: str, tenant: str) -> None:
    """Refuse to give a name that means an image of another tenant's, or of everybody's.

    Raises:
        ConflictError: It is: whoever relies on it would get another image.
    """
    known = read_name(pool, name)
    if known is not None and known.tenant != tenant:
        raise ConflictError(
            f"the name '{name}' is {known.tenant or 'an image of everybody'}'s already",
            hint="choose another name: `--name`",
        )


def _may_be_a_note(volume: StoredVolume) -> bool:
    """Return whether a volume keeps a name, or is about to: and not what somebody else put there.

    A client that was killed may have left one of zeros.
    """
    if volume.physical_size() > _SIZE:
        return False
    content = volume.read(length=_SIZE)
    return not content.strip(b"\0") or content.lstrip().startswith(b'{"name":')


def remove_name(pool: Pool, name: str) -> bool:
    """Forget a name; returns whether it was known."""
    return _volume_of(pool, name).delete()


def list_names(pool: Pool) -> list[ImageName]:
    """Return all names of a pool, sorted."""
    found = (
        read_name(pool, volume.removesuffix(_SUFFIX))
        for volume in pool.names()
        if volume.endswith(_SUFFIX)
    )
    return [entry for entry in found if entry is not None]
