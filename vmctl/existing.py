"""Volumes that the host has already and a machine shall get: found, and looked into first.

What lies in a pool was not always brought there by vmctl. A header can lead QEMU to any file of the
host, so it is read here, through libvirt, before a machine gets the volume.
"""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Literal

from vmctl.errors import ImageError, NotFoundError, UnsupportedError
from vmctl.hypervisor.attachment import source_of
from vmctl.hypervisor.pools import Pool, open_pool, refresh
from vmctl.hypervisor.volumes import StoredVolume, at_path
from vmctl.imaging import headers
from vmctl.render.sources import DiskSource

__all__ = ["copy_volume", "existing_source", "refuse_unsafe"]

# As much as the header of any format here has, and the name of a backing file.
_HEADER = 65536
# More than anybody stacks; a host that lies could name them in a circle.
_MOST_LAYERS = 200
# What libvirt copies byte by byte.
_AS_RAW = frozenset({"", "raw", "iso", "none", "unknown"})


def existing_source(pool: Pool, reference: str, *, format: str, field: str) -> DiskSource:  # noqa: A002
    """Return what a spec's existing volume is.

    Args:
        pool: The pool that a mere name is looked up in.
        reference: ``NAME``, ``POOL/NAME``, or an absolute path on the host.
        format: How it is said to be written: ``qcow2`` or ``raw``.
        field: Where in the spec it is named.

    Raises:
        NotFoundError: It isn't there; or it is a qcow2 file that no pool has, so that it can't be
            looked into.
        ImageError: It is not what it is said to be, or leads to what is no volume.
        UnsupportedError: A volume of that kind can't be a disk, or not in that format.
    """
    if reference.startswith("/"):
        if format != "raw":
            refuse_unsafe(at_path(pool.connection, reference), format)
        # What is opened as raw leads nowhere, whatever is in it.
        kind: Literal["file", "block"] = "block" if reference.startswith("/dev/") else "file"
        return DiskSource(type=kind, path=reference)
    pool_name, _, name = reference.rpartition("/")
    place = open_pool(pool.connection, pool_name) if pool_name else pool
    volume = StoredVolume.of(place, name)
    try:
        found = volume.facts()
    except NotFoundError as error:
        raise NotFoundError(f"{field}: {error.brief}", hint=error.hint) from error
    source = source_of(place.connection, found)
    if found.type == "network" and format != "raw":
        # libvirt can't read it; and its header could be another one at each start.
        raise UnsupportedError(
            f"{field}: the volume '{found.name}' is a server's, and can be raw only",
            hint="write format: raw beside it: a volume of which nothing is said is qcow2",
        )
    if found.type != "network":
        # A device was perhaps raw before, and its guest wrote the header: then at least it must
        # not lead to a volume of another's.
        refuse_unsafe(volume, format, alone=found.type == "block")
    return source


def refuse_unsafe(volume: StoredVolume, format: str, *, alone: bool = False) -> None:  # noqa: A002
    """Refuse a volume that is not what it is said to be, or that leads to what is no volume.

    What is underneath a qcow2 file is what its header names, of the format that is given there, as
    QEMU takes it: what libvirt's pools say of it is a guess that a guest can lead astray, who wrote
    a header into its own raw disk.

    Args:
        volume: The uppermost.
        format: How it is said to be written: ``qcow2`` or ``raw``.
        alone: Whether it must lie on nothing.

    Raises:
        ImageError: It is so.
    """
    kind, layer = format, volume
    for _number in range(_MOST_LAYERS):
        name = Path(f"{layer.pool}/{layer.name}")
        header = layer.read(length=_HEADER)
        # Where no format is given, QEMU takes what it finds.
        kind = kind or headers.kind_of(header)
        if kind not in {"qcow2", "raw"}:
            raise ImageError(
                f"{str(name)!r} is {kind}, and disks here are qcow2 or raw",
                hint="import it as an image, which converts it",
            )
        headers.check_volume(name, kind, header)
        below = headers.backing_of(name, header) if kind == "qcow2" else None
        if below is None:
            return
        if alone:
            raise ImageError(
                f"{str(name)!r} lies on {below.name!r}, which no volume on a device may",
                hint="if its guest has it as raw, write format: raw; else flatten it",
            )
        try:
            path = posixpath.join(posixpath.dirname(layer.path()), below.name)
            layer, kind = at_path(volume.connection, path), below.format
        except NotFoundError as error:
            raise ImageError(
                f"{str(name)!r} lies on {below.name!r}, which is no volume of any pool",
                details="a header that names a file of the host gives it to the guest to read",
                hint="if it is to be trusted, make a pool of the folder that it is in",
            ) from error
    raise ImageError(
        f"'{volume.pool}/{volume.name}' has more than {_MOST_LAYERS} layers",
        hint="`vmctl doctor` looks at the volumes of the host",
    )


def copy_volume(source: StoredVolume, copy: StoredVolume, xml: str, *, format: str) -> None:  # noqa: A002
    """Let the host make a copy of a volume that nobody writes to.

    libvirt lets qemu-img read the source as what it took it for when it last looked through the
    pool, by its first bytes. A guest with a raw disk chooses these, and so which file of the host
    would be in the copy: hence whatever has two meanings is refused, and not copied.

    Args:
        source: What is copied, all that is underneath included.
        copy: The new volume.
        xml: Its XML.
        format: How the source is written, as the machine has it whose disk it is.

    Raises:
        ImageError: The source is not what it is said to be, or leads to what is no volume.
        ConflictError: There is a volume of that name.
        ResourceError: There is no room.
    """
    # From here on, libvirt takes it for what is looked at next.
    refresh(source.connection, source.pool)
    facts = source.facts()
    if facts.type != "network":
        refuse_unsafe(source, format)
    taken = "raw" if facts.format in _AS_RAW else facts.format
    if facts.type == "file" and taken != format:
        raise ImageError(
            f"'{source.pool}/{source.name}' is {format}, and looks like {taken}, "
            "as which the host would copy it",
            hint="what is in it was written by a guest; copy it from within one",
        )
    copy.create(xml, source=source)
