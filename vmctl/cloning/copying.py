"""The volumes of a clone: copied by the host, or by QEMU while the source runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from vmctl.agent import GuestAgent
from vmctl.cloning.inside import copy_bytes, go_back_inside
from vmctl.cloning.origin import Origin
from vmctl.cloning.planning import ClonePlan, Copy
from vmctl.errors import (
    ConflictError,
    GuestError,
    GuestUnreachableError,
    HypervisorError,
    VmctlError,
    WaitTimeoutError,
    WrongStateError,
)
from vmctl.existing import copy_volume
from vmctl.hypervisor import backups
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Role
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import Phase
from vmctl.render.backup import render_backup
from vmctl.render.volume import render_volume

__all__ = ["Copying", "Still"]

# Longer than the copying of any disks takes.
_LONGEST_SECONDS = 86400.0
# Where less is left, that was the trouble.
_NO_ROOM = 1 << 20
_AS_AFTER_A_CRASH = "its disks are as after a power cut, which a guest mends as it starts"


class Still(Protocol):
    """Files that nobody should write to while they are copied."""

    def refuse_changed(self) -> None:
        """Raise if somebody did."""


class Copying:
    """Makes the volumes of one clone.

    Args:
        origin: What it is a clone of.
        plan: What is made.
        clone: Its definition, which is there.
        phase: Told how far it is.
    """

    def __init__(self, origin: Origin, plan: ClonePlan, clone: Domain, phase: Phase) -> None:
        self._origin = origin
        self._plan = plan
        self._clone = clone
        self._phase = phase
        self._notes: list[str] = []

    def run(self, watched: Still | None) -> list[str]:
        """Make all of them.

        Args:
            watched: The source's files as they were found, which nobody writes to; None for those
                of a machine that runs.

        Returns:
            What is to be known of the copies.

        Raises:
            ConflictError: The source was started, or changed, meanwhile.
            WrongStateError: It went off.
            ResourceError: The pool filled up.
            HypervisorError: QEMU could not copy a disk.
        """
        disks = [copy for copy in self._plan.copies if copy.part.role is Role.DISK]
        for copy in self._plan.copies:
            if copy not in disks:
                self._copy(copy)
        nvram = self._copy_running(disks) if watched is None else self._copy_still(disks, watched)
        if self._origin.inside:
            go_back_inside(self._clone, self._origin.inside, [copy.part.target for copy in disks])
        owned = self._plan.record.volume(Role.NVRAM)
        # Last: after each upload libvirt looks through every volume of the pool.
        if owned is not None and nvram is not None:
            self._write(owned.name, nvram)
        for new, content in self._plan.contents:
            self._write(new.name, content)
        return self._notes

    def _volume(self, name: str) -> StoredVolume:
        return StoredVolume.of(self._plan.pool, name)

    def _write(self, name: str, content: bytes) -> None:
        volume = self._volume(name)
        volume.create(render_volume(name, capacity=len(content), format="raw"))
        if content:
            volume.write(content)

    def _copy(self, copy: Copy) -> None:
        """Let the host copy a volume that nobody writes to, or make one that lies on it."""
        self._phase.update(f"copying {copy.part.target or copy.part.suffix}")
        made = self._volume(copy.owned.name)
        is_disk = copy.part.role is Role.DISK
        if self._origin.inside if is_disk else self._origin.running:
            # What a guest writes to meanwhile, as to a floppy, the host could copy as what it is
            # not: it probes.
            copy_bytes(copy.part.volume, made, self._phase)
        elif copy.linked:
            made.create(_xml_of(copy))
        else:
            copy_volume(copy.part.volume, made, _xml_of(copy), format=copy.part.format)

    def _read_nvram(self) -> bytes | None:
        volume = self._origin.nvram_volume()
        return None if volume is None else volume.read()

    def _copy_still(self, disks: list[Copy], watched: Still) -> bytes | None:
        """Let the host copy disks that nobody writes to; returns UEFI's variables."""
        try:
            for copy in disks:
                self._copy(copy)
            nvram = self._read_nvram()
        except VmctlError:
            # Of one that was started meanwhile, QEMU has locked the disks.
            watched.refuse_changed()
            raise
        watched.refuse_changed()
        return nvram

    # -- while it runs ----------------------------------------------------------------------------

    def _copy_running(self, disks: list[Copy]) -> bytes | None:
        """Let QEMU copy the disks as they are at one moment; returns UEFI's variables then."""
        source = self._origin.domain
        for copy in disks:
            self._volume(copy.owned.name).create(_xml_of(copy))
        if not disks:
            return self._read_nvram()
        xml = render_backup(
            {copy.part.target: copy.path for copy in disks},
            formats={copy.part.target: copy.format for copy in disks},
        )
        backups.forget_outcome(source)
        self._phase.update("copying the disks", 0.0)
        with self._quiesced():
            before = self._read_nvram()
            backups.begin(source, xml, None)
            after = self._read_nvram()
        # UEFI's variables are no disk to QEMU. What was the same before and after that moment was
        # so in it, too; and the guest need not be stopped for it.
        if before != after:
            raise ConflictError(
                f"the firmware's variables of '{source.name}' were changed in that very moment",
                hint="try again",
            )
        self._await_end()
        # Their headers are others now.
        self._plan.pool.refresh()
        return after

    @contextmanager
    def _quiesced(self) -> Iterator[None]:
        """Freeze the guest's file systems while the block runs, if it has an agent for that."""
        source = self._origin
        with ExitStack() as stack:
            try:
                if "org.qemu.guest_agent" not in source.definition:
                    raise GuestUnreachableError("its source has no agent", hint="`agent: true`")
                agent = GuestAgent(source.domain, record=lambda: source.record)
                agent.ping()
                # So that `gc` lets them go on if this client is killed.
                self._clone.update_record(froze=True)
                stack.enter_context(agent.frozen())
            except (GuestError, WrongStateError) as error:
                self._notes.append(f"{_AS_AFTER_A_CRASH}: {error.brief}")
            yield
        self._clone.update_record(froze=False)

    def _await_end(self) -> None:
        domain = self._origin.domain

        def tell(job: backups.Job) -> None:
            self._phase.update("copying the disks", job.done / job.whole if job.whole else None)

        job = backups.await_end(domain, seconds=_LONGEST_SECONDS, tell=tell)
        if job is None:
            raise WaitTimeoutError(
                f"the disks of '{domain.name}' were not copied within a day",
                phase="disks",
                hint="stop it, and clone it then",
            )
        if not job.succeeded:
            raise self._why_not(job)

    def _why_not(self, job: backups.Job) -> VmctlError:
        name = self._origin.domain.name
        if job.succeeded is None:
            return HypervisorError(
                f"nobody knows whether the disks of '{name}' were copied to their end",
                details="libvirtd was restarted meanwhile, or somebody else asked first",
                hint="clone it again",
            )
        self._plan.pool.refresh()
        if self._plan.pool.available() < _NO_ROOM:
            return self._plan.pool.no_room(f"for a copy of '{name}'; the guest runs on")
        return HypervisorError(
            f"the disks of '{name}' could not be copied",
            details=job.why,
            hint="somebody ended it, or QEMU's log on the host says why: /var/log/libvirt/qemu",
        )


def _xml_of(copy: Copy) -> str:
    return render_volume(
        copy.owned.name,
        capacity=copy.part.capacity,
        format=copy.format,
        backing_path=copy.part.path if copy.linked else None,
        backing_format=copy.part.format,
    )
