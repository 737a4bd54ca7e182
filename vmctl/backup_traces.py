"""What a backup needs on the host while it is made, and how that goes again.

QEMU writes it into volumes of a pool, from which it comes to the client. Beside each lies a note of
who is at work (`hypervisor/uploads.py`). Its name says of which machine and of which backup it is,
and so which checkpoint counts for nothing if that client was killed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vmctl import detours
from vmctl.agent import GuestAgent
from vmctl.errors import ConflictError, NotFoundError, RollbackError, VmctlError
from vmctl.hypervisor import backups, names, uploads
from vmctl.hypervisor.claims import Claim, claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.metadata import Phase
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import being_undone
from vmctl.render.volume import render_volume

__all__ = [
    "KIND",
    "OWN_CHECKPOINT",
    "Traces",
    "end_job",
    "passing",
    "refuse_tracking_of_others",
    "settle",
    "settle_note",
    "stop_tracking",
]

# Longer than that takes.
_CLAIM_SECONDS = 600.0

KIND = "backing-up"
"""What the note beside a volume is called that a backup passes through."""

OWN_CHECKPOINT = re.compile(r"vmctl\.(?P<target>[0-9a-f]{16})\.(?P<backup>[0-9TZ]+)")
"""The names of the checkpoints that backups go on from."""

_PASSING = re.compile(
    r"(?P<uuid>[0-9a-f-]{36})\.(?P<target>[0-9a-f]{16})\.(?P<backup>[0-9TZ]+)\.[a-z]+\.backup"
)


@dataclass(frozen=True, kw_only=True)
class Traces:
    """The names of what one backup leaves on a host while it is made.

    Attributes:
        uuid: The machine's UUID.
        target: The ID of the folder that the backup goes to.
        backup: The backup's own ID.
    """

    uuid: str
    target: str
    backup: str

    @property
    def checkpoint(self) -> str:
        """The name of its checkpoint."""
        return f"vmctl.{self.target}.{self.backup}"

    def volume(self, disk: str) -> str:
        """Return the name of the volume that one disk passes through."""
        return f"{self.uuid}.{self.target}.{self.backup}.{disk}.backup"


@contextmanager
def passing(
    domain: Domain, pool: str, sizes: dict[str, int], traces: Traces, claim: Claim
) -> Iterator[dict[str, StoredVolume]]:
    """Make an empty qcow2 volume for each disk, each noted before it exists; gone after the block.

    When the block fails, the backup's checkpoint goes as well.

    Args:
        domain: The machine.
        pool: Where.
        sizes: The disks, and what their guest sees of each, in bytes.
        traces: What they are called.
        claim: Who is at work.
    """
    made = {disk: StoredVolume(domain.connection, pool, traces.volume(disk)) for disk in sizes}
    marked: list[StoredVolume] = []
    try:
        for disk, volume in made.items():
            uploads.mark(volume, claim, kind=KIND)
            marked.append(volume)
            # Version 3 of qcow2: in one of version 2, a cluster that became zeros would be none,
            # and what an earlier backup has there would be seen instead.
            volume.create(render_volume(volume.name, capacity=sizes[disk], format="qcow2"))
        yield made
    except BaseException as error:
        with being_undone():
            _undo(domain, marked, error, traces.checkpoint)
        raise
    with being_undone():
        _undo(domain, marked, None, "")


def _undo(
    domain: Domain, marked: Iterable[StoredVolume], cause: BaseException | None, checkpoint: str
) -> None:
    failures: list[VmctlError] = []
    left: list[str] = []
    if checkpoint:
        try:
            outlasting(lambda: _forget(domain, checkpoint))
        except VmctlError as failure:
            failures.append(failure)
            left.append(f"the checkpoint '{checkpoint}'")
    for volume in marked:
        try:
            outlasting(volume.delete)
            outlasting(lambda volume=volume: uploads.unmark(volume, kind=KIND))  # type: ignore[misc]
        except VmctlError as failure:
            failures.append(failure)
            left.append(f"the volume '{volume.name}' in the pool '{volume.pool}'")
    if failures:
        because = "" if cause is None else f"it failed because: {cause}\n"
        raise RollbackError(
            f"not all that the backup of '{domain.name}' needed on the host could be removed",
            left=left,
            details=because + "\n".join(f"the removal failed because: {why}" for why in failures),
            hint="mend the cause and run `vmctl gc`",
        ) from cause


def _forget(domain: Domain, checkpoint: str) -> None:
    if domain.exists():
        backups.forget_checkpoint(domain, checkpoint)


def end_job(domain: Domain) -> None:
    """End what QEMU does for a backup, and bring the machine back to the phase it was in."""
    record = domain.record()
    if record is None or record.phase is not Phase.BACKING_UP:
        return
    backups.abort(domain)
    detours.end(domain, record)


def settle(domain: Domain) -> None:
    """Bring a machine to rest whose backup was begun by a client that was killed.

    It may have been killed while the file systems were frozen, so they are thawed.
    """
    record = domain.record()
    if record is None or record.phase is not Phase.BACKING_UP:
        return
    if not record.woken and domain.state() is State.RUNNING:
        _thaw(domain)
    end_job(domain)


def _thaw(domain: Domain) -> None:
    if "org.qemu.guest_agent" not in domain.xml():
        return
    record = domain.record()
    if record is None:
        return
    agent = GuestAgent(domain, record=lambda: record)
    try:
        if agent.is_frozen():
            agent.thaw()
    except VmctlError:
        # A guest without an agent could not be frozen by it either.
        return


def settle_note(note: uploads.Note) -> None:
    """Remove what a killed client left of one disk's way, and the checkpoint of that backup."""
    found = _PASSING.fullmatch(note.volume.name)
    if found is not None:
        traces = Traces(**found.groupdict())
        try:
            domain = names.find(note.volume.connection, traces.uuid)
        except NotFoundError:
            pass
        else:
            backups.forget_checkpoint(domain, traces.checkpoint)
    note.volume.delete()
    uploads.unmark(note.volume, kind=KIND)


def refuse_tracking_of_others(domain: Domain) -> None:
    """Refuse what can't be done while a disk keeps track of changes for another program.

    Raises:
        ConflictError: One does.
    """
    for name in backups.checkpoints(domain):
        if OWN_CHECKPOINT.fullmatch(name) is None:
            raise ConflictError(
                f"another program keeps track of what changes on the disks of '{domain.name}', "
                f"by the checkpoint '{name[:80]}'",
                hint=f"delete it first: `virsh checkpoint-delete {domain.name} {name[:80]}`",
            )


def stop_tracking(domain: Domain) -> None:
    """Let the disks keep track of nothing: what comes next could not be done beside that.

    QEMU refuses to go back to an internal snapshot while a disk keeps track, and ends; libvirt
    refuses to snapshot a machine that is off. The next backup is a full one, and says why.

    Args:
        domain: The machine, which nobody is at work on. If it is off, QEMU is started for it with
            its processors paused.
    """
    own = [name for name in backups.checkpoints(domain) if OWN_CHECKPOINT.fullmatch(name)]
    if not own:
        return
    if domain.is_active():
        for name in own:
            backups.forget_checkpoint(domain, name)
        return
    with claimed(_CLAIM_SECONDS) as claim:
        detours.begin(domain, Phase.BACKING_UP, claim, wakes=True)
        try:
            detours.wake(domain)
            for name in own:
                backups.forget_checkpoint(domain, name)
        finally:
            with being_undone():
                outlasting(lambda: end_job(domain))
