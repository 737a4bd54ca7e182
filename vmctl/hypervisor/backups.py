"""Backups as QEMU writes them beside a guest, and the checkpoints that they go on from.

https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBackupBegin
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import libvirt
from lxml import etree

from vmctl.errors import HypervisorError, UnsupportedError, VmctlError, WrongStateError
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.errors import calling, is_code

__all__ = [
    "Job",
    "Refusal",
    "abort",
    "await_end",
    "begin",
    "changed_since",
    "checkpoints",
    "drop_checkpoints",
    "forget_checkpoint",
    "forget_outcome",
    "is_under_way",
    "set_aside",
    "writes_to",
]

_UNSUPPORTED = (
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
)
_OPERATION = "operation"
# That a QEMU that is about to end may be there without an answer; libvirt kills it before that.
_LONGEST_END_SECONDS = 60.0
# That libvirt may call a backup under way for which QEMU has no job: it hears of one thing later.
_LONGEST_IDLE_SECONDS = 5.0


class Refusal(StrEnum):
    """Why a backup was not begun as it was asked for, though another kind of it may be."""

    BROKEN = "broken"
    """The disks have not kept track of what was changed since that checkpoint."""
    NO_CHECKPOINTS = "no checkpoints"
    """This libvirt, or QEMU, keeps no checkpoints for these disks."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A backup under way, or ended.

    Attributes:
        ended: Whether it is over.
        succeeded: Whether it came to its end; None where nobody knows any more, as after libvirtd
            was restarted meanwhile.
        done: Bytes that were read.
        whole: Bytes that there are to read.
        why: What libvirt says of a failure.
    """

    ended: bool
    succeeded: bool | None = None
    done: int = 0
    whole: int = 0
    why: str = ""


def begin(domain: Domain, xml: str, checkpoint: str | None, *, since: str = "") -> Refusal | None:
    """Begin a backup: what the disks hold at this moment is what it will have.

    Args:
        domain: The machine; QEMU is there for it.
        xml: The backup's XML. The files that it names exist, empty.
        checkpoint: The XML of the checkpoint that is made in the same moment; None for none.
        since: The checkpoint that it goes on from; empty for a full one.

    Returns:
        None if it has begun.

    Raises:
        UnsupportedError: This libvirt can't do it at all.
    """
    raw = domain.raw()

    def why_not(error: libvirt.libvirtError) -> VmctlError | None:
        if not is_code(error, *_UNSUPPORTED):
            return None
        if not domain.is_active():
            return _went_off(domain)
        return UnsupportedError(
            f"this host can't back '{domain.name}' up while QEMU has its disks",
            details=error.get_error_message() or "",
            hint="it takes libvirt 7.2 and QEMU 4.2; an export does without: `vmctl export`",
        )

    with calling(f"begin the backup of '{domain.name}'", on=why_not):
        try:
            raw.backupBegin(xml, checkpoint, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
        except libvirt.libvirtError as error:
            lost = (libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT, libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT)
            if since and is_code(error, *lost):
                return Refusal.BROKEN
            if checkpoint is not None and is_code(error, *_UNSUPPORTED) and raw.isActive():
                return Refusal.NO_CHECKPOINTS
            raise
    return None


def _went_off(domain: Domain) -> WrongStateError:
    state = domain.state()
    return WrongStateError(
        f"'{domain.name}' is {state.value}: QEMU, which was to write its backup, is gone",
        state=state.value,
        hint="see why it went off, and make the backup again: `vmctl logs`",
    )


def forget_outcome(domain: Domain) -> None:
    """Let libvirt forget how the job before ended, so that it isn't taken for that of the next."""
    with domain.acting("look at the jobs of") as raw:
        raw.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)


def await_end(domain: Domain, *, seconds: float, tell: Callable[[Job], None]) -> Job | None:
    """Wait until the backup that was begun last is over; libvirtd may be restarted meanwhile.

    Args:
        domain: The machine.
        seconds: For how long to wait.
        tell: Told how far it is.

    Returns:
        How it ended; None if it has not.

    Raises:
        WrongStateError: The machine went off before it was done.
        HypervisorError: QEMU can't be asked, and doesn't end.
    """
    watch = _Watch(domain, tell)
    with domain.connection.events.listening(domain.uuid) as heard:
        return heard.wait_for(watch.ended, deadline=time.monotonic() + seconds, recheck=0.2)


class _Watch:
    """What was seen of a backup under way, and since when it is strange."""

    def __init__(self, domain: Domain, tell: Callable[[Job], None]) -> None:
        self._domain = domain
        self._tell = tell
        self._ends_since: float | None = None
        self._idle_since: float | None = None

    def ended(self) -> Job | None:
        """Return how it ended; None if it has not."""
        failure: HypervisorError | None = None
        try:
            job = outlasting(lambda: _job_of(self._domain))
            if not job.ended:
                self._ends_since = None
                self._tell(job)
                return self._lost(job)
            # QEMU cancels what it is at before it ends, which libvirt notices later.
            if job.succeeded or not _is_ending(self._domain):
                return job
        except HypervisorError as error:
            # A QEMU that is about to end can't be asked; soon it is gone.
            failure = error
        now = time.monotonic()
        self._ends_since = self._ends_since or now
        if now - self._ends_since < _LONGEST_END_SECONDS:
            return None
        if failure is not None:
            raise failure
        return job

    def _lost(self, job: Job) -> Job | None:
        """End a backup that libvirt waits for and QEMU knows nothing of; None if it is not so.

        A libvirtd that is killed before QEMU begins, or when QEMU has ended, comes back with a
        backup that never ends (libvirt 9.0). What QEMU has written of it, nobody knows.
        """
        if job.whole or outlasting(lambda: _has_block_job(self._domain)):
            self._idle_since = None
            return None
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        if now - self._idle_since < _LONGEST_IDLE_SECONDS:
            return None
        outlasting(lambda: abort(self._domain))
        return Job(ended=True)


def _has_block_job(domain: Domain) -> bool:
    targets = [disk.target for disk in domain.disks()]
    with domain.acting("look at the block jobs of") as raw:
        return any(raw.blockJobInfo(target, 0) for target in targets)


def _is_ending(domain: Domain) -> bool:
    """Return whether QEMU said that it ends, or is gone since it was asked."""
    return domain.state() is State.IN_SHUTDOWN or not domain.is_active()


def _job_of(domain: Domain) -> Job:
    """Return how far the backup is that was begun last.

    Raises:
        WrongStateError: The machine went off before it was done.
    """
    raw = domain.raw()
    with calling(f"ask how far the backup of '{domain.name}' is"):
        try:
            figures = raw.jobStats(0)
        except libvirt.libvirtError:
            # What is asked of a QEMU that ends meanwhile, fails in several ways.
            if raw.isActive():
                raise
            figures = {"type": libvirt.VIR_DOMAIN_JOB_NONE}
        if figures["type"] != libvirt.VIR_DOMAIN_JOB_NONE:
            return Job(
                ended=False,
                done=figures.get("disk_processed", 0),
                whole=figures.get("disk_total", 0),
            )
        outcome = raw.jobStats(
            libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
        )
        known = outcome.get(_OPERATION) == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
        succeeded = bool(outcome.get("success")) if known else None
        if not succeeded and not raw.isActive():
            raise _went_off(domain)
        return Job(ended=True, succeeded=succeeded, why=outcome.get("errmsg", ""))


def is_under_way(domain: Domain) -> bool:
    """Return whether QEMU writes a backup of the machine right now, whoever began it."""
    raw = domain.raw()
    with calling(f"ask for a backup of '{domain.name}'"):
        try:
            raw.backupGetXMLDesc(0)
        except libvirt.libvirtError as error:
            gone = (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID)
            if is_code(error, *gone, *_UNSUPPORTED):
                return False
            raise
    return True


def writes_to(domain: Domain, paths: frozenset[str]) -> bool:
    """Return whether QEMU writes a backup of the machine into one of some files right now."""
    raw = domain.raw()
    with calling(f"ask for a backup of '{domain.name}'"):
        try:
            root = etree.fromstring(raw.backupGetXMLDesc(0))
        except libvirt.libvirtError as error:
            gone = (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID)
            if is_code(error, *gone, *_UNSUPPORTED):
                return False
            raise
    return bool(paths & {target.get("file", "") for target in root.iter("target")})


def abort(domain: Domain) -> None:
    """End the backup that is under way, if there is one; the guest does not notice."""
    if not domain.is_active() or not is_under_way(domain):
        return
    raw = domain.raw()
    with calling(f"end the backup of '{domain.name}'"):
        try:
            raw.abortJob()
        except libvirt.libvirtError as error:
            # It came to its end by itself.
            if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID) or is_under_way(domain):
                raise


def checkpoints(domain: Domain) -> tuple[str, ...]:
    """Return the names of its checkpoints, sorted; none where libvirt has no such thing."""
    raw = domain.raw()
    with calling(f"list the checkpoints of '{domain.name}'"):
        try:
            return tuple(sorted(found.getName() for found in raw.listAllCheckpoints(0)))
        except libvirt.libvirtError as error:
            if is_code(error, *_UNSUPPORTED):
                return ()
            raise


def forget_checkpoint(domain: Domain, name: str) -> None:
    """Delete a checkpoint, and what the disks kept for it. One that is gone already is left so.

    Of a machine that is off only libvirt's word of it could go: that one stays for another time.
    """
    if not domain.is_active():
        return
    raw = domain.raw()
    with calling(f"delete the checkpoint '{name}' of '{domain.name}'"):
        try:
            found = raw.checkpointLookupByName(name)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT):
                return
            raise
        try:
            found.delete(0)
        except libvirt.libvirtError as error:
            # A disk has lost its part of it: then there is nothing else left to delete.
            if not is_code(error, libvirt.VIR_ERR_INTERNAL_ERROR) or (
                error.get_error_domain() != libvirt.VIR_FROM_QEMU
            ):
                raise
            found.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def drop_checkpoints(domain: Domain) -> None:
    """Let libvirt forget all checkpoints of a machine whose disks are others now."""
    raw = domain.raw()
    with calling(f"delete the checkpoints of '{domain.name}'"):
        for found in raw.listAllCheckpoints(0) if checkpoints(domain) else ():
            found.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


@contextmanager
def set_aside(domain: Domain) -> Iterator[None]:
    """Have libvirt forget the checkpoints of a machine that is off, while the block runs.

    It refuses all that has to do with snapshots of such a machine as long as it knows of any. What
    the disks keep stays in them. If this process is killed, libvirt does not know of them any more,
    and the next backup is a full one.
    """
    raw = domain.raw()
    with calling(f"look at the checkpoints of '{domain.name}'"):
        if raw.isActive() or not checkpoints(domain):
            texts = []
        else:
            # Each before those that were made after it.
            found = raw.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
            texts = [entry.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE) for entry in found]
            for entry in reversed(found):
                entry.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    try:
        yield
    finally:
        with calling(f"bring back the checkpoints of '{domain.name}'"):
            for text in texts:
                raw.checkpointCreateXML(text, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)


def changed_since(domain: Domain, name: str) -> dict[str, int]:
    """Return the bytes that were changed since a checkpoint, by the disks that know of it.

    A disk that has lost track is not in it.
    """
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE | libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN
    with domain.acting("ask what was changed on the disks of") as raw:
        text = raw.checkpointLookupByName(name).getXMLDesc(flags)
    disks = etree.fromstring(text).findall("disks/disk[@size]")
    return {disk.get("name", ""): int(disk.get("size", "0")) for disk in disks}
