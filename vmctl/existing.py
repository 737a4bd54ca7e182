"""Volumes that the host has already and a machine shall get: found, and looked into first.

What lies in a pool was not always brought there by vmctl. A header can lead QEMU to any file of the
host, so it is read here, through libvirt, before a machine gets the volume.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vmctl.errors import ImageError, NotFoundError
from vmctl.hypervisor.attachment import source_of
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.hypervisor.volumes import StoredVolume, at_path
from vmctl.imaging import headers
from vmctl.render.sources import DiskSource

__all__ = ["existing_source", "refuse_unsafe"]

# As much as the header of any format here has, and the name of a backing file.
_HEADER = 65536
# More than anybody stacks; a host that lies could name them in a circle.
_MOST_LAYERS = 200


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
        UnsupportedError: A volume of that kind can't be a disk.
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
    if found.type == "file":
        refuse_unsafe(volume, format)
    return source


def refuse_unsafe(volume: StoredVolume, format: str) -> None:  # noqa: A002 - the field's own word
    """Refuse a volume that is not what it is said to be, or that leads to what is no volume.

    Raises:
        ImageError: It is so.
    """
    kind, layer = format, volume
    for _number in range(_MOST_LAYERS):
        name = Path(f"{layer.pool}/{layer.name}")
        headers.check_volume(name, kind, layer.read(length=_HEADER))
        backing = layer.facts().backing
        if not backing or kind != "qcow2":
            return
        try:
            layer = at_path(volume.connection, backing)
        except NotFoundError as error:
            raise ImageError(
                f"{str(name)!r} lies on {backing!r}, which is no volume of any pool",
                details="a header that names a file of the host gives it to the guest to read",
                hint="if it is to be trusted, make a pool of the folder that it is in",
            ) from error
        kind = layer.facts().format or "raw"
    raise ImageError(
        f"'{volume.pool}/{volume.name}' has more than {_MOST_LAYERS} layers",
        hint="`vmctl doctor` looks at the volumes of the host",
    )
