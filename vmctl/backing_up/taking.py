"""The moment that a backup is of: QEMU begins to write it, and the guest goes on.

QEMU writes it into volumes of the host, from which it is fetched afterwards. Only while QEMU writes
is the machine in a phase of its own. A machine that is off has QEMU started for it, paused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vmctl import backup_traces, detours
from vmctl.backing_up.chains import Choice, DiskNow, MachineNow
from vmctl.backing_up.manifest import Consistency
from vmctl.backing_up.quiescing import quiesced
from vmctl.backup_traces import Traces
from vmctl.errors import (
    HypervisorError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    VmctlError,
    WaitTimeoutError,
)
from vmctl.hypervisor import backups, blockjobs, pools, snapshots
from vmctl.hypervisor.claims import Claim, claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Phase, Record, Role
from vmctl.hypervisor.volumes import StoredVolume, at_path
from vmctl.imaging.scratch import refuse_without_room
from vmctl.progress import Phase as ReportedPhase
from vmctl.progress import Reporter, being_undone
from vmctl.render.backup import render_backup, render_checkpoint

__all__ = ["Taken", "Wishes", "taken"]

# Longer than any backup takes to be written and to come here.
_CLAIM_SECONDS = 86400.0
# The tables of a qcow2 file, and more.
_BESIDE_DATA = 2 << 20
_ATTEMPTS = 3
_READINGS = 10


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How a backup is to be made.

    Attributes:
        quiesce: Whether the agent freezes the file systems: True, or it fails; False: no; None: if
            it can.
        pool: The pool that it passes through; None: the one of the machine's volumes.
        default_pool: The one where the machine has none.
        timeout: Seconds that QEMU has for writing it.
    """

    quiesce: bool | None
    pool: str | None
    default_pool: str
    timeout: float | None = None


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A backup that QEMU has written.

    Attributes:
        volumes: For each disk that is in it, the volume that it lies in.
        sizes: What the guest sees of each, in bytes.
        disks: All disks of the machine.
        choice: What kind it is.
        checkpoint: From which the next one can go on; empty where there is none.
        consistency: What state its file systems are in.
        created: When its moment was.
        nvram: UEFI's variables at that moment; None where there are none, or no pool has them.
        firmware: The file name of the firmware that wrote them; empty for a BIOS.
        definition: The machine's XML for its next start, without passwords.
        remarks: What else is to be known.
    """

    volumes: dict[str, StoredVolume]
    sizes: dict[str, int]
    disks: tuple[DiskNow, ...]
    choice: Choice
    checkpoint: str
    consistency: Consistency
    created: datetime
    nvram: bytes | None
    firmware: str
    definition: str
    remarks: tuple[str, ...]


@contextmanager
def taken(
    domain: Domain,
    seen: detours.Seen,
    traces: Traces,
    *,
    decide: Callable[[MachineNow], Choice],
    goes_to: Path,
    wishes: Wishes,
    reporter: Reporter,
) -> Iterator[Taken]:
    """Give a backup as it lies on the host; what it needed there is gone after the block.

    If the block fails, its checkpoint is gone as well, and the machine is as it was.

    Args:
        domain: The machine.
        seen: It, as it was when nobody was at work on it.
        traces: What it is called on the host.
        decide: Says what kind it is.
        goes_to: The folder on the client that it comes into afterwards.
        wishes: How it is to be made.
        reporter: Told of the phase ``backup``.
    """
    with ExitStack() as stack, claimed(_CLAIM_SECONDS) as claim:
        # Before anything is done, for the ones that a killed client left are not in the way then.
        woken = detours.begin(domain, Phase.BACKING_UP, claim, seen=seen, wakes=True)
        try:
            with reporter.phase("backup") as phase:
                taking = _Taking(
                    domain, seen.record, traces, wishes, phase, goes_to=goes_to, woken=woken
                )
                if woken:
                    phase.update("starting QEMU, its processors paused")
                    detours.wake(domain)
                found = taking.begin(decide, stack, claim)
                taking.wait()
        except BaseException:
            with being_undone():
                outlasting(lambda: _take_back(domain, traces))
            raise
        with being_undone():
            outlasting(lambda: backup_traces.end_job(domain))
        yield found


def _take_back(domain: Domain, traces: Traces) -> None:
    if not domain.exists():
        return
    backups.abort(domain)
    backups.forget_checkpoint(domain, traces.checkpoint)
    backup_traces.end_job(domain)


class _Taking:
    def __init__(
        self,
        domain: Domain,
        record: Record,
        traces: Traces,
        wishes: Wishes,
        phase: ReportedPhase,
        *,
        goes_to: Path,
        woken: bool,
    ) -> None:
        self._domain = domain
        self._record = record
        self._traces = traces
        self._wishes = wishes
        self._phase = phase
        self._goes_to = goes_to
        self._woken = woken
        self._pool = self._find_pool()

    def _find_pool(self) -> str:
        wanted = self._wishes.pool
        own = [volume.pool for volume in self._record.volumes if volume.role is Role.DISK]
        names = [wanted] if wanted else [*own, self._wishes.default_pool]
        for name in names:
            found = pools.open_pool(self._domain.connection, name)
            if pools.facts_of(self._domain.connection, found.name).type in pools.FILE_POOLS:
                return found.name
        raise UnsupportedError(
            f"the pool '{names[0]}' has no files, and a backup passes through one",
            hint="name a pool of files: `vmctl pool list`",
        )

    def begin(
        self, decide: Callable[[MachineNow], Choice], stack: ExitStack, claim: Claim
    ) -> Taken:
        """Let QEMU begin: as was decided, or in full where it turns out that it can't be so."""
        now = self._look()
        choice = decide(now)
        for _ in range(_ATTEMPTS):
            found, refusal = self._try(now, choice, stack, claim)
            if refusal is None:
                return found
            stack.close()
            if refusal is backups.Refusal.BROKEN:
                choice = Choice(None, "what kept track of its changes is broken", tracks=True)
            else:
                choice = Choice(None, "this host keeps no checkpoints of its disks", tracks=False)
        raise HypervisorError(
            f"libvirt refuses each kind of a backup of '{self._domain.name}'",
            hint="see its log on the host",
        )

    def _look(self) -> MachineNow:
        kinds = {disk.target: disk.format for disk in self._domain.disks()}
        return MachineNow(
            disks=tuple(
                DiskNow(
                    target=disk.target,
                    format=kinds.get(disk.target, "raw"),
                    sources=(disk.path, *disk.layers),
                    read_only=disk.read_only,
                )
                for disk in blockjobs.live_disks(self._domain)
            ),
            checkpoints=backups.checkpoints(self._domain),
            internal_snapshots=snapshots.has_internal(self._domain),
        )

    def _try(
        self, now: MachineNow, choice: Choice, stack: ExitStack, claim: Claim
    ) -> tuple[Taken, backups.Refusal | None]:
        within = [disk for disk in now.disks if choice.parent is None or not disk.read_only]
        tracked = [disk.target for disk in now.disks if not disk.read_only]
        sizes = {disk.target: self._domain.disk_size(disk.target) for disk in within}
        since = "" if choice.parent is None else choice.parent.manifest.checkpoint
        self._refuse_without_room(within, sizes, since)
        volumes = stack.enter_context(
            backup_traces.passing(self._domain, self._pool, sizes, self._traces, claim)
        )
        paths = {target: volume.path() for target, volume in volumes.items()}
        name = self._traces.checkpoint if choice.tracks and tracked else ""
        checkpoint = render_checkpoint(name, tracked) if name else None
        # After the moment nothing more is asked that a restart of libvirtd would cut off.
        firmware = self._domain.firmware()[0].rpartition("/")[2]
        definition = self._domain.xml(inactive=True)
        left_behind = tuple(self._left_behind())
        backups.forget_outcome(self._domain)
        with self._at_rest() as (consistency, remark):
            nvram = self._nvram()
            created = datetime.now(UTC)
            refusal = backups.begin(
                self._domain, render_backup(paths, since=since), checkpoint, since=since
            )
        variables = self._nvram_at_rest(nvram)
        found = Taken(
            volumes=volumes,
            sizes=sizes,
            disks=now.disks,
            choice=choice,
            checkpoint=name,
            consistency=consistency,
            created=created,
            nvram=variables,
            firmware=firmware,
            definition=definition,
            remarks=tuple(text for text in (remark, *left_behind) if text),
        )
        return found, refusal

    def _refuse_without_room(self, disks: list[DiskNow], sizes: dict[str, int], since: str) -> None:
        """Say beforehand that there is no room; a full pool would halt its other guests."""
        changed = backups.changed_since(self._domain, since) if since else {}
        needed = sum(
            changed.get(disk.target, 0) if since else min(sizes[disk.target], self._allocated(disk))
            for disk in disks
        )
        needed += _BESIDE_DATA * len(disks)
        pools.refresh(self._domain.connection, self._pool)
        available = pools.facts_of(self._domain.connection, self._pool).available
        if available < needed:
            raise pools.no_room(
                self._pool,
                f"for the backup of '{self._domain.name}' on its way",
                details=f"it takes about {needed} bytes, and {available} are free",
            )
        refuse_without_room(self._goes_to, needed, f"the backup of '{self._domain.name}'")

    def _allocated(self, disk: DiskNow) -> int:
        found = 0
        for path in disk.sources:
            try:
                found += at_path(self._domain.connection, path).facts().allocation
            except NotFoundError:
                continue
        return found

    def _at_rest(self) -> AbstractContextManager[tuple[Consistency, str]]:
        """Have what is on the disks in as good a state as can be, while the block runs."""
        if self._woken:
            return nullcontext((Consistency.OFF, ""))
        if self._wishes.quiesce is not False:
            self._phase.update("freezing its file systems")
        return quiesced(self._domain, self._record, self._wishes.quiesce)

    # -- UEFI's variables -------------------------------------------------------------------------

    def _nvram(self) -> bytes | None:
        owned = self._record.volume(Role.NVRAM)
        if owned is None:
            return None
        volume = StoredVolume(self._domain.connection, owned.pool, owned.name)
        if not volume.exists():
            # libvirt made it at the first start, and the pool has not seen it yet.
            pools.refresh(self._domain.connection, owned.pool)
        return volume.read() if volume.exists() else None

    def _nvram_at_rest(self, before: bytes | None) -> bytes | None:
        """Return what was read before, if nothing was written meanwhile; else what is there soon.

        A guest changes its variables once in months. Where it does in just this moment, they are
        of a moment later than the disks; a half-written set is what must not be.
        """
        for _ in range(_READINGS):
            now = self._nvram()
            if now == before:
                return now
            before = now
        raise HypervisorError(
            f"the firmware's variables of '{self._domain.name}' change all the time",
            hint="see what the guest does with them, and make the backup again",
        )

    def _left_behind(self) -> Iterator[str]:
        _code, nvram = self._domain.firmware()
        if nvram and self._record.volume(Role.NVRAM) is None:
            yield f"the firmware's variables are not in it: they are at {nvram}, and not in a pool"
        if (self._record.spec.get("firmware") or {}).get("tpm"):
            yield "what its TPM holds is not in it: libvirt gives it to nobody"

    # -- until it is written ----------------------------------------------------------------------

    def wait(self) -> None:
        """Return when QEMU has written all of it.

        Raises:
            WrongStateError: The machine went off.
            ResourceError: The pool filled up.
            WaitTimeoutError: It took too long.
            HypervisorError: It failed.
        """
        domain = self._domain
        seconds = _CLAIM_SECONDS if self._wishes.timeout is None else self._wishes.timeout

        def tell(job: backups.Job) -> None:
            fraction = job.done / job.whole if job.whole else None
            self._phase.update("writing it on the host", fraction)

        job = backups.await_end(domain, seconds=seconds, tell=tell)
        if job is None:
            raise WaitTimeoutError(
                f"the backup of '{domain.name}' was not written within {seconds:.0f} s",
                phase="backup",
                hint="give it more time, or make it when there is less to do: `--timeout`",
            )
        if not job.succeeded:
            raise self._why_not(job)

    def _why_not(self, job: backups.Job) -> VmctlError:
        if job.succeeded is None:
            return HypervisorError(
                f"nobody knows whether the backup of '{self._domain.name}' came to its end",
                details="libvirtd was restarted meanwhile, or somebody else asked first",
                hint="make it again",
            )
        available = pools.left_when_full(self._domain.connection, self._pool)
        if available is not None:
            return ResourceError(
                f"the pool '{self._pool}' filled up while the backup of '{self._domain.name}' was "
                "written; the guest runs on",
                details=f"{available} bytes are free; {job.why}",
                hint="make room there, or let it pass through another pool: `--pool`",
            )
        return HypervisorError(
            f"the backup of '{self._domain.name}' failed",
            details=job.why,
            hint="somebody ended it, or QEMU's log on the host says why: /var/log/libvirt/qemu",
        )
