"""The transaction that makes a clone: as a launch, with disks that are copied.

The name is reserved by defining the clone, whose record lists what is going to be made and whose
disks are being copied. Whatever fails, all of it is undone; what a killed client left, `gc` finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from vmctl.agent import GuestAgent
from vmctl.cloning.origin import Origin, look_at, refuse_unready
from vmctl.cloning.planning import ClonePlan, Copy, plan_clone
from vmctl.errors import (
    ConflictError,
    GuestError,
    HypervisorError,
    NotFoundError,
    RollbackError,
    VmctlError,
    WrongStateError,
)
from vmctl.hypervisor import names
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.exports import being_exported
from vmctl.hypervisor.metadata import Phase, Record, Role
from vmctl.hypervisor.pushes import PushTarget, await_push, begin_push
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.launch import Surroundings
from vmctl.progress import Phase as ReportedPhase
from vmctl.progress import ProgressCallback, Reporter, being_undone
from vmctl.removal import remove_machine
from vmctl.renaming import refuse_bad_name
from vmctl.render.volume import render_volume
from vmctl.transfer.source import Watched

__all__ = ["Cloned", "clone"]

# Longer than the copying of any disks takes.
_CLAIM_SECONDS = 86400.0
# How long somebody else who reads the same disks is waited for.
_TURN_SECONDS = 3600.0
# Where less is left, that was the trouble.
_NO_ROOM = 1 << 20


@dataclass(frozen=True)
class Cloned:
    """A clone that was made, and one sentence for each thing that is not as in its source."""

    domain: Domain
    notes: tuple[str, ...]


def clone(
    domain: Domain,
    record: Record,
    name: str,
    *,
    values: Mapping[str, Any],
    around: Surroundings,
    progress: ProgressCallback | None,
) -> Cloned:
    """Make a full clone of a machine; see `VM.clone`.

    Args:
        domain: The machine.
        record: What vmctl knows of it.
        name: The clone's name.
        values: What the clone has in the place of what only one machine can have.
        around: Where its volumes go, and with whose key its guest is reached.
        progress: Told of the phases ``define`` and ``disks``.
    """
    refuse_bad_name(name)
    _refuse_taken_name(domain, name)
    refuse_unready(domain, record)
    # A start that was over before this began is none that tears it.
    domain.connection.catch_up()
    with (
        claimed(_CLAIM_SECONDS) as claim,
        being_exported(domain, wait=_TURN_SECONDS),
        domain.connection.events.listening(domain.uuid) as heard,
    ):
        # Only from here on nobody of vmctl's changes it.
        _refuse_taken_name(domain, name)
        record = domain.record() or record
        refuse_unready(domain, record)
        origin = look_at(domain, record)
        watched = None if origin.running else Watched(domain, record, heard)
        plan = plan_clone(
            origin,
            name,
            values=values,
            pool_name=around.pool,
            key=around.key,
            templates=around.templates,
        )
        making = _Making(origin, plan, watched, Reporter(name, progress))
        return making.run(replace(plan.record, claim=claim))


def _refuse_taken_name(domain: Domain, name: str) -> None:
    """Say that a name is taken before any work is done for it; defining it decides."""
    try:
        names.find(domain.connection, name)
    except NotFoundError:
        return
    raise names.name_is_taken(name)


class _Making:
    def __init__(
        self, origin: Origin, plan: ClonePlan, watched: Watched | None, reporter: Reporter
    ) -> None:
        self._origin = origin
        self._plan = plan
        self._watched = watched
        self._reporter = reporter
        self._connection = origin.domain.connection
        self._clone = Domain(self._connection, plan.uuid, plan.name)
        self._notes = list(plan.notes)

    def run(self, record: Record) -> Cloned:
        plan = self._plan
        try:
            with self._reporter.phase("define"):
                xml = plan.xml(record)
                names.define(self._connection, xml, name=plan.name, uuid=plan.uuid)
            with self._reporter.phase("disks") as phase:
                self._make_volumes(phase)
            has_seed = record.volume(Role.SEED) is not None
            last = Phase.PROVISIONING if has_seed else self._origin.record.phase
            done: dict[str, Any] = {"phase": last, "claim": None, "copied_from": ""}
            outlasting(lambda: self._clone.update_record(**done))
        except BaseException as error:
            # Before anything is told of it: a signal that comes now must not end the undoing.
            with being_undone():
                self._undo(record, error)
            raise
        return Cloned(self._clone, tuple(self._notes))

    def _make_volumes(self, phase: ReportedPhase) -> None:
        for owned, content in self._plan.contents:
            self._write(owned.name, content)
        disks = [copy for copy in self._plan.copies if copy.part.role is Role.DISK]
        for copy in self._plan.copies:
            if copy not in disks:
                self._copy(copy, phase)
        if self._watched is None:
            self._copy_running(disks, phase)
            return
        for copy in disks:
            self._copy(copy, phase)
        self._write_nvram(self._read_nvram())
        self._watched.refuse_changed()

    def _volume(self, name: str) -> StoredVolume:
        return StoredVolume.of(self._plan.pool, name)

    def _write(self, name: str, content: bytes) -> None:
        volume = self._volume(name)
        volume.create(render_volume(name, capacity=len(content), format="raw"))
        if content:
            volume.write(content)

    def _copy(self, copy: Copy, phase: ReportedPhase) -> None:
        """Let the host copy a volume that nobody writes to, with all that lies underneath."""
        phase.update(f"copying {copy.part.target or copy.part.suffix}")
        self._volume(copy.owned.name).create(_xml_of(copy), source=copy.part.volume)

    def _read_nvram(self) -> bytes | None:
        volume = self._origin.nvram_volume()
        return None if volume is None else volume.read()

    def _write_nvram(self, content: bytes | None) -> None:
        owned = self._plan.record.volume(Role.NVRAM)
        if owned is not None and content is not None:
            self._write(owned.name, content)

    def _copy_running(self, disks: list[Copy], phase: ReportedPhase) -> None:
        """Let QEMU copy the disks as they are at one moment, while the guest runs on."""
        source = self._origin.domain
        for copy in disks:
            self._volume(copy.owned.name).create(_xml_of(copy))
        targets = {
            copy.part.target: PushTarget(path=copy.path, format=copy.format) for copy in disks
        }
        if not targets:
            self._write_nvram(self._read_nvram())
            return
        with self._quiesced():
            before = self._read_nvram()
            begin_push(source, targets)
            after = self._read_nvram()
        # UEFI's variables are no disk to QEMU. What was the same before and after that moment was
        # so in it, too; and the guest need not be stopped for it.
        if before != after:
            raise ConflictError(
                f"the firmware's variables of '{source.name}' were changed in that very moment",
                hint="try again",
            )
        self._write_nvram(after)
        try:
            await_push(source, tell=lambda part: phase.update("copying the disks", part))
        except HypervisorError as error:
            self._plan.pool.refresh()
            if self._plan.pool.available() < _NO_ROOM:
                raise self._plan.pool.no_room(f"for a copy of '{source.name}'") from error
            raise
        self._plan.pool.refresh()

    @contextmanager
    def _quiesced(self) -> Iterator[None]:
        """Freeze the guest's file systems while the block runs, if it has an agent for that."""
        source = self._origin
        with ExitStack() as stack:
            if "org.qemu.guest_agent" in source.definition:
                self._clone.update_record(froze=True)
                try:
                    agent = GuestAgent(source.domain, record=lambda: source.record)
                    stack.enter_context(agent.frozen())
                except (GuestError, WrongStateError) as error:
                    self._notes.append(f"{_AS_AFTER_A_CRASH}: {error.brief}")
            else:
                self._notes.append(f"{_AS_AFTER_A_CRASH}: its source has no guest agent")
            yield
        self._clone.update_record(froze=False)

    def _undo(self, record: Record, error: BaseException) -> None:
        if isinstance(error, ConflictError) and not outlasting(self._clone.exists):
            # The name was somebody else's: nothing was made.
            return
        # What was made goes, whatever becomes of the one who is told of it.
        with self._reporter.phase("undo", must_run=True):
            try:
                outlasting(lambda: remove_machine(self._clone, record))
            except VmctlError as failure:
                left = failure.left if isinstance(failure, RollbackError) else ()
                raise RollbackError(
                    f"the cloning of '{self._origin.domain.name}' failed, and not all of it could "
                    "be undone",
                    left=left,
                    details=f"it failed because: {error}\nthe undoing failed because: {failure}",
                    hint="mend the cause, then `vmctl gc` removes what is left",
                ) from error


_AS_AFTER_A_CRASH = "its disks are as after a power cut, which a guest mends as it starts"


def _xml_of(copy: Copy) -> str:
    return render_volume(copy.owned.name, capacity=copy.part.capacity, format=copy.format)
