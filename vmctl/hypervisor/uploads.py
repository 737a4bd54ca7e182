"""Uploads under way, recorded beside the volume that is being written, where every client sees it.

A volume has no metadata in libvirt. So while ``NAME`` is being filled, ``NAME.vmctl-uploading``
says who is at work on it; what a killed client left is found by that.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

import libvirt

from vmctl.errors import ConflictError, VmctlError
from vmctl.hypervisor.claims import Claim
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.render.volume import render_volume

__all__ = ["Upload", "is_marked", "list_uploads", "mark", "take_over", "unmark"]

_UPLOADING = "uploading"
_SUFFIX = f".vmctl-{_UPLOADING}"
_SIZE = 4096
# Far longer than the writing of a claim takes.
_WRITING_SECONDS = 5.0


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


def _marker(volume: StoredVolume, kind: str = _UPLOADING) -> StoredVolume:
    return StoredVolume(volume.connection, volume.pool, f"{volume.name}.vmctl-{kind}")


def take_over(volume: StoredVolume, claim: Claim, *, kind: str = _UPLOADING) -> None:
    """Record that somebody is at work on a volume, in the place of one who is gone.

    Raises:
        ConflictError: Somebody else is at it.
    """
    if _marker(volume, kind).exists() and not is_marked(volume, kind=kind):
        unmark(volume, kind=kind)
    mark(volume, claim, kind=kind)


def is_marked(volume: StoredVolume, *, kind: str = _UPLOADING) -> bool:
    """Return whether somebody is at work on a volume right now."""
    if not _marker(volume, kind).exists():
        return False
    claim = _claim_of(volume, kind)
    if claim is None:
        # It is just being written; or whoever began that was killed within those milliseconds.
        deadline = time.monotonic() + _WRITING_SECONDS
        claim = Signal().wait_for(lambda: _claim_of(volume, kind), deadline=deadline, recheck=0.2)
    return claim is not None and not claim.is_abandoned()


def mark(volume: StoredVolume, claim: Claim, *, kind: str = _UPLOADING) -> None:
    """Record that a volume is going to be made and filled, or what else is done with it.

    Raises:
        ConflictError: Somebody else is at it.
    """
    marker = _marker(volume, kind)
    content = json.dumps(asdict(claim)).encode().ljust(_SIZE)
    try:
        marker.create(render_volume(marker.name, capacity=_SIZE, format="raw"))
    except ConflictError as error:
        raise ConflictError(
            f"somebody else is {kind} the volume '{volume.name}' in the pool '{volume.pool}'",
            hint="wait until that has ended; `vmctl gc` removes what a killed client left",
        ) from error
    try:
        marker.write(content)
    except BaseException:
        marker.delete()
        raise


def unmark(volume: StoredVolume, *, kind: str = _UPLOADING) -> None:
    """Record that the volume is whole, or gone."""
    _marker(volume, kind).delete()


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


def _claim_of(volume: StoredVolume, kind: str = _UPLOADING) -> Claim | None:
    try:
        return Claim(**json.loads(_marker(volume, kind).read(length=_SIZE)))
    except (VmctlError, ValueError, TypeError):
        return None
