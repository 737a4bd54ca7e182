"""Uploads under way, recorded beside the volume that is being written, where every client sees it.

A volume has no metadata in libvirt. So while ``NAME`` is being filled, ``NAME.vmctl-uploading``
says who is at work on it; what a killed client left is found by that.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass

import libvirt

from vmctl.errors import ConflictError, VmctlError
from vmctl.hypervisor.claims import Claim
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.render.volume import render_volume

__all__ = ["Upload", "list_uploads", "mark", "unmark"]

_SUFFIX = ".vmctl-uploading"
_SIZE = 4096


@dataclass(frozen=True)
class Upload:
    """An upload that began, and whose volume is not whole.

    Attributes:
        volume: The volume.
        claim: Who is at work on it; None while that is just being written, or if its writing was
            cut off.
    """

    volume: StoredVolume
    claim: Claim | None


def _marker(volume: StoredVolume) -> StoredVolume:
    return StoredVolume(volume.connection, volume.pool, volume.name + _SUFFIX)


def mark(volume: StoredVolume, claim: Claim) -> None:
    """Record that a volume is going to be made and filled.

    Raises:
        ConflictError: Somebody else is at it.
    """
    marker = _marker(volume)
    content = json.dumps(asdict(claim)).encode().ljust(_SIZE)
    try:
        marker.create(render_volume(marker.name, capacity=_SIZE, format="raw"))
    except ConflictError as error:
        raise ConflictError(
            f"somebody else is uploading the volume '{volume.name}' to the pool '{volume.pool}'",
            hint="wait until that has ended; `vmctl gc` removes what a killed client left",
        ) from error
    file = os.memfd_create("vmctl-claim")
    try:
        os.write(file, content)
        marker.upload(file, start=0, length=_SIZE, sparse=False, sent=lambda _count: None)
    except BaseException:
        marker.delete()
        raise
    finally:
        os.close(file)


def unmark(volume: StoredVolume) -> None:
    """Record that the volume is whole, or gone."""
    _marker(volume).delete()


def list_uploads(connection: Connection) -> list[Upload]:
    """Return what is recorded in all pools that run."""
    found = []
    flags = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
    with calling("look for uploads"):
        for pool in connection.raw.listAllStoragePools(flags):
            names: list[str] = []
            # A pool that is stopped meanwhile has none to show.
            with suppress(libvirt.libvirtError):
                names = pool.listVolumes()
            found += [
                StoredVolume(connection, pool.name(), name.removesuffix(_SUFFIX))
                for name in sorted(names)
                if name.endswith(_SUFFIX)
            ]
    return [Upload(volume, _claim_of(volume)) for volume in found]


def _claim_of(volume: StoredVolume) -> Claim | None:
    file = os.memfd_create("vmctl-claim")
    try:
        _marker(volume).download(file, received=lambda _count: None)
        return Claim(**json.loads(os.pread(file, _SIZE, 0)))
    except (VmctlError, ValueError, TypeError):
        return None
    finally:
        os.close(file)
