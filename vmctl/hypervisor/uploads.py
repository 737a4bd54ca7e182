"""Work on a volume under way, recorded beside the volume, where every client sees it.

A volume has no metadata in libvirt. So while ``NAME`` is being filled, ``NAME.vmctl-uploading``
says who is at work on it, ``NAME.vmctl-removing`` while it is being removed, and
``NAME.vmctl-dumping`` while a machine's memory is written into it; what a killed client left is
found by that.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

import libvirt

from vmctl.errors import ConflictError, NotFoundError, WrongStateError
from vmctl.hypervisor.claims import Claim
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.render.volume import render_volume

__all__ = [
    "DUMPING",
    "REMOVING",
    "UPLOADING",
    "Note",
    "is_marked",
    "list_notes",
    "mark",
    "take_over",
    "unmark",
]

UPLOADING = "uploading"
REMOVING = "removing"
DUMPING = "dumping"
_SIZE = 4096
# Far longer than the writing of a claim takes.
_WRITING_SECONDS = 5.0


@dataclass(frozen=True)
class Note:
    """A record that somebody is, or was, at work on a volume.

    Attributes:
        volume: The volume that is worked on; it may not exist, or not be whole.
        kind: What is done with it: `UPLOADING`, `REMOVING` or `DUMPING`.
    """

    volume: StoredVolume
    kind: str

    @property
    def own(self) -> StoredVolume:
        """The volume that the record itself is in."""
        name = f"{self.volume.name}{_suffix(self.kind)}"
        return StoredVolume(self.volume.connection, self.volume.pool, name)

    def left_by(self) -> str | None:
        """Return the client that left it and is gone, empty where that one did not get to say.

        Returns:
            None if somebody is at work, or came to an end and took the record away.
        """
        try:
            claim = self.claim()
        except NotFoundError:
            return None
        if claim is None:
            return ""
        return claim.client if claim.is_abandoned() else None

    def claim(self) -> Claim | None:
        """Return who is, or was, at work; None if the writing of that was cut off.

        Raises:
            NotFoundError: There is no such record.
        """
        claim = self._read()
        if claim is None:
            # It is just being written; or whoever began that was killed within those milliseconds.
            deadline = time.monotonic() + _WRITING_SECONDS
            claim = Signal().wait_for(self._read, deadline=deadline, recheck=0.2)
        return claim

    def _read(self) -> Claim | None:
        try:
            return Claim(**json.loads(self.own.read(length=_SIZE)))
        except (WrongStateError, ValueError, TypeError):
            return None


def _suffix(kind: str) -> str:
    return f".vmctl-{kind}"


def take_over(volume: StoredVolume, claim: Claim, *, kind: str = UPLOADING) -> None:
    """Record that somebody is at work on a volume, in the place of one who is gone.

    Raises:
        ConflictError: Somebody else is at it.
    """
    if Note(volume, kind).left_by() is not None:
        unmark(volume, kind=kind)
    mark(volume, claim, kind=kind)


def is_marked(volume: StoredVolume, *, kind: str = UPLOADING) -> bool:
    """Return whether somebody is at work on a volume right now."""
    try:
        claim = Note(volume, kind).claim()
    except NotFoundError:
        return False
    return claim is not None and not claim.is_abandoned()


def mark(volume: StoredVolume, claim: Claim, *, kind: str = UPLOADING) -> None:
    """Record that a volume is going to be made and filled, or what else is done with it.

    Raises:
        ConflictError: Somebody else is at it.
    """
    own = Note(volume, kind).own
    content = json.dumps(asdict(claim)).encode().ljust(_SIZE)
    try:
        own.create(render_volume(own.name, capacity=_SIZE, format="raw"))
    except ConflictError as error:
        raise ConflictError(
            f"somebody else is {kind} the volume '{volume.name}' in the pool '{volume.pool}'",
            hint="wait until that has ended; `vmctl gc` removes what a killed client left",
        ) from error
    try:
        own.write(content)
    except BaseException:
        own.delete()
        raise


def unmark(volume: StoredVolume, *, kind: str = UPLOADING) -> None:
    """Record that the volume is whole, or gone."""
    Note(volume, kind).own.delete()


def list_notes(connection: Connection, *, kind: str) -> list[Note]:
    """Return what is recorded in all pools that run."""
    found = []
    flags = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
    suffix = _suffix(kind)
    with calling(f"look for volumes that somebody is {kind}"):
        for pool in connection.raw.listAllStoragePools(flags):
            names: list[str] = []
            # A pool that is stopped meanwhile has none to show.
            with suppress(libvirt.libvirtError):
                names = pool.listVolumes()
            found += [
                Note(StoredVolume(connection, pool.name(), name.removesuffix(suffix)), kind)
                for name in sorted(names)
                if name.endswith(suffix)
            ]
    return found
