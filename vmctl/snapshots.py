"""Snapshots of one machine: taken, listed, gone back to, deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from vmctl import backup_traces, detours, power
from vmctl.agent import GuestAgent
from vmctl.changes import refuse_while_changed
from vmctl.errors import ConflictError, UnsupportedError, UsageError, VmctlError
from vmctl.hypervisor import snapshots as backend
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.exports import refuse_while_exported
from vmctl.hypervisor.metadata import Record, Role
from vmctl.progress import ProgressCallback, Reporter
from vmctl.render.facts import HostFacts
from vmctl.render.snapshot import render_snapshot
from vmctl.retention import Retention, keep
from vmctl.snapshotting import creating, files, internal, merging, reverting
from vmctl.snapshotting.choosing import Choice, MachineShape, SnapshotKind, choose
from vmctl.snapshotting.looking import descendants, shape_of, tracked_disks
from vmctl.snapshotting.naming import (
    check_description,
    check_name,
    refuse_ambiguous,
    refuse_number,
)
from vmctl.snapshotting.planning import plan_snapshot, refuse_without_room_inside
from vmctl.snapshotting.settling import settle_abandoned
from vmctl.snapshotting.switching import is_own

__all__ = ["Choice", "Snapshot", "SnapshotKind", "Snapshots"]

Snapshot: TypeAlias = backend.SnapshotFacts


class Snapshots:
    """The snapshots of one machine, those that other programs took included.

    They are internal or external ones, as the machine allows; see `SnapshotKind`.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        facts: Callable[[], HostFacts],
        record: Callable[[], Record],
        forget_connection: Callable[[], None],
    ) -> None:
        self._domain = domain
        self._facts = facts
        self._record = record
        self._forget_connection = forget_connection

    def create(
        self,
        name: str,
        *,
        memory: bool | None = None,
        quiesce: bool | None = None,
        kind: SnapshotKind | str | None = None,
        description: str = "",
        progress: ProgressCallback | None = None,
    ) -> Snapshot:
        """Take a snapshot of all that the machine writes to, together, and of its memory.

        Args:
            name: At most 63 letters, digits and ``. _ -``.
            memory: Whether a running machine's memory is in it; None: if that can be.
            quiesce: Whether the agent freezes the guest's file systems for it; None: if the memory
                is not in it, and an agent answers. They are thawed whatever happens.
            kind: ``internal`` or ``external``; None: what the machine allows. ``why`` of the
                snapshot tells.
            description: What to remember of it.
            progress: Told of the one phase, ``snapshot``.

        Raises:
            UsageError: That is no name for a snapshot (an internal one can't be called by a
                number), or memory and frozen file systems are asked for at once.
            ConflictError: There is one of that name, or the machine is not ready yet, or somebody
                is at work on it, or it has snapshots of the other kind.
            WrongStateError: Its state does not allow it.
            UnsupportedError: A disk can't be in a snapshot, or what is asked for can't be.
            GuestUnreachableError: It shall be quiesced, and no agent answers.
            ResourceError: There is no room.
        """
        check_name(name)
        check_description(description)
        seen = self._free("snapshotted")
        record = seen.record
        if record.volume(Role.SEED) is not None:
            raise ConflictError(
                f"'{self._domain.name}' is not ready yet: its seed is still in its drive",
                hint=f"wait for it first: `vmctl wait {self._domain.name}`",
            )
        self.refuse_taken(name)
        shape = self._shape()
        choice = choose(
            shape,
            kind=_kind(kind),
            memory=memory,
            quiesce=quiesce,
            agent_answers=lambda: self._agent_answers(record),
        )
        if choice.kind is SnapshotKind.INTERNAL:
            refuse_number(name)
            if choice.memory:
                refuse_without_room_inside(self._domain, shape)
        self._refuse_jobs()
        untracked = choice.kind is SnapshotKind.INTERNAL or not shape.active
        if untracked:
            backup_traces.refuse_tracking_of_others(self._domain)
        with Reporter(self._domain.name, progress).phase("snapshot") as phase:
            if untracked:
                backup_traces.stop_tracking(self._domain)
                record = self._record()
            if choice.kind is SnapshotKind.INTERNAL:
                xml = render_snapshot(name, description=description)
                taken = internal.take(self._domain, xml, name=name, seen=seen)
                return replace(taken, why=choice.why)
            plan = plan_snapshot(self._domain, record, shape, name=name, memory=choice.memory)
            creating.take(self._domain, seen, plan, choice, description=description, phase=phase)
        return replace(backend.details_of(self._domain, name).facts, why=choice.why)

    def choice(self) -> Choice:
        """Return of which kind its next snapshot would be, what would be in it, and why.

        Its guest is not asked: ``quiesce`` tells nothing.

        Raises:
            VmctlError: It can't be snapshotted now; the error says why.
        """
        return choose(self._shape())

    def outlook(self) -> tuple[str, str]:
        """Return the kind of its next snapshot and why; or no kind, and why it can't have one."""
        try:
            choice = self.choice()
        except (ConflictError, UnsupportedError) as error:
            return "", error.brief
        return choice.kind.value, choice.why

    def _shape(self) -> MachineShape:
        snapshots = backend.list_details(self._domain)
        shape = shape_of(self._domain, snapshots, facts=self._facts)
        if not shape.disks:
            raise UnsupportedError(
                f"'{self._domain.name}' has no disk that it writes to, and so nothing to snapshot",
                hint="a snapshot holds disks",
            )
        return shape

    def _agent_answers(self, record: Record) -> bool:
        try:
            GuestAgent(self._domain, record=lambda: record).ping()
        except VmctlError:
            return False
        return True

    def _free(self, verb: str) -> detours.Seen:
        """Return a machine that nobody is at work on, as it is now.

        What a killed client left of a snapshot is settled first.
        """
        settle_abandoned(self._domain, self._record())
        seen = detours.look(self._domain)
        record = seen.record
        refuse_while_exported(self._domain.name, record)
        detours.refuse_work_in_progress(self._domain, record)
        refuse_while_changed(self._domain, record)
        power.refuse_saved(self._domain, verb)
        return seen

    def refuse_taken(self, name: str) -> None:
        """Say that there is a snapshot of a name.

        Raises:
            ConflictError: It is so.
        """
        if backend.exists(self._domain, name):
            raise backend.name_is_taken(self._domain, name)

    def _refuse_jobs(self) -> None:
        for target in backend.busy_disks(self._domain):
            raise ConflictError(
                f"a job is at work on the disk '{target}' of '{self._domain.name}'",
                hint="wait until it has ended: `virsh blockjob` shows it",
            )

    def list(self) -> list[Snapshot]:
        """Return the snapshots, the oldest first."""
        return backend.list_snapshots(self._domain)

    def revert(
        self, name: str, *, keep: str | None = None, progress: ProgressCallback | None = None
    ) -> None:
        """Take the machine back to a snapshot: its disks, and its memory if that is in it.

        A snapshot with memory leaves it as it was then, running; every other leaves it off. What
        was not snapshotted is lost. However this ends, the machine is as before, or as in the
        snapshot.

        Args:
            name: Which.
            keep: The name of a snapshot that is taken of the present state first.
            progress: Told of the phase ``revert``, and of ``snapshot`` if that is taken.

        Raises:
            NotFoundError: There is no such snapshot.
            ConflictError: Somebody is at work on the machine, or exports it; or it is to be kept
                under a name that is taken; or external snapshots lie on an internal one, or QEMU
                would take another one for it.
            WrongStateError: The machine has a saved state.
            ImageError: A file of the snapshot is gone.
            HypervisorError: Its memory can't be restored; the machine is as it was, and off.
        """
        seen = self._free("reverted")
        details = backend.details_of(self._domain, name, secure=True)
        self._refuse_impossible(details)
        if keep is not None:
            check_name(keep)
            self.refuse_taken(keep)
            self.create(keep, progress=progress)
            seen = self._free("reverted")
        self._forget_connection()
        with Reporter(self._domain.name, progress).phase("revert") as phase:
            # The files that the disks go on in know nothing of what was tracked.
            backup_traces.stop_tracking(self._domain)
            if details.facts.kind == SnapshotKind.INTERNAL:
                self._refuse_tracked()
            reverting.go_back(self._domain, seen, details, phase=phase)
        self._forget_connection()

    def _refuse_impossible(self, details: backend.SnapshotDetails) -> None:
        self._refuse_jobs()
        backup_traces.refuse_tracking_of_others(self._domain)
        if details.facts.kind == SnapshotKind.EXTERNAL:
            reverting.refuse_lost_files(self._domain, details)
            return
        name, found = details.facts.name, self.list()
        above = [entry.name for entry in found if entry.kind == SnapshotKind.EXTERNAL]
        if above:
            raise ConflictError(
                f"'{name}' lies inside the disks of '{self._domain.name}', whose "
                f"files external snapshots have frozen: {', '.join(above)}",
                hint="delete those first",
            )
        refuse_ambiguous(self._domain, name, [it.name for it in found if it.name != name])

    def _refuse_tracked(self) -> None:
        for target in sorted(tracked_disks(self._domain)):
            raise ConflictError(
                f"the disk '{target}' of '{self._domain.name}' keeps track of changes for somebody "
                "whom libvirt doesn't know, and QEMU does not go back beside that",
                hint="stop it, and on its host let the disk forget: `qemu-img info` names the "
                "bitmaps, `qemu-img bitmap --remove FILE NAME` removes one",
            )

    def delete(
        self, name: str, *, children: bool = False, progress: ProgressCallback | None = None
    ) -> tuple[str, ...]:
        """Delete a snapshot; what the machine has, and all other snapshots, stay as they are.

        An external one is forgotten first, and its memory is deleted. Then QEMU merges the layers
        that nobody can go back to any more, beside the guest; for a machine that is off it is
        started with its processors paused. If that is cut off, `merge` goes on with it. A layer on
        which several others lie stays, until one of them is left.

        Args:
            name: Which.
            children: Whether all that were taken after it go as well.
            progress: Told of the one phase, ``delete``.

        Returns:
            The snapshots that are gone, the oldest first.

        Raises:
            NotFoundError: There is no such snapshot.
            ConflictError: vmctl did not make the machine, somebody is at work on it, or another
                machine's disk lies on what the snapshot holds.
            WrongStateError: The machine has a saved state, or went off in the middle.
            ResourceError: A pool filled up; the snapshot is gone, and its layer still there.
        """
        seen = self._free("changed")
        found = {entry.facts.name: entry for entry in backend.list_details(self._domain)}
        doomed = [backend.details_of(self._domain, name)]
        if children:
            doomed += [found[each] for each in descendants(name, found)]
        names = tuple(entry.facts.name for entry in doomed)
        self._refuse_jobs()
        if any(entry.facts.kind == SnapshotKind.EXTERNAL for entry in doomed):
            merging.delete(self._domain, seen, doomed, progress=progress)
            return names
        with Reporter(self._domain.name, progress).phase("delete"):
            for each in reversed(names):
                internal.delete(self._domain, each)
        return names

    def merge(self, *, progress: ProgressCallback | None = None) -> int:
        """Merge the layers that no snapshot needs: those of a deletion that was cut off, say.

        Args:
            progress: Told of the one phase, ``merge``.

        Returns:
            How many layers there are fewer.

        Raises:
            ConflictError: vmctl did not make the machine, or somebody is at work on it.
            WrongStateError: The machine has a saved state, or went off in the middle.
            ResourceError: A pool filled up; what is not merged is as it was.
        """
        seen = self._free("changed")
        self._refuse_jobs()
        return merging.merge(self._domain, seen, progress=progress)

    def prune(
        self,
        rules: Retention,
        *,
        dry_run: bool = False,
        progress: ProgressCallback | None = None,
    ) -> tuple[str, ...]:
        """Delete the snapshots that no rule keeps; the current one is kept always.

        So is one that another machine's disk lies on: see `held`. Those that other programs took
        are not counted, and stay; `of_others` names them. Hours, days and weeks are counted in UTC.

        Args:
            rules: How many are kept.
            dry_run: Only look.
            progress: Told of the phase ``delete``, for each that is.

        Returns:
            Those that are gone, or would be, the oldest first.

        Raises:
            VmctlError: As from `delete`; those before are gone.
        """
        others = self.of_others()
        found = [entry for entry in self.list() if entry.name not in others]
        kept = keep([(entry.name, entry.created) for entry in found], rules, in_order=True)
        going = [entry.name for entry in found if entry.name not in kept and not entry.current]
        held = self.held() if going else {}
        going = [name for name in going if name not in held]
        if not dry_run:
            for name in going:
                self.delete(name, progress=progress)
        return tuple(going)

    def of_others(self) -> tuple[str, ...]:
        """Return the names of the snapshots that other programs than vmctl took."""
        details = backend.list_details(self._domain)
        return tuple(entry.facts.name for entry in details if not is_own(entry))

    def held(self) -> dict[str, tuple[str, ...]]:
        """Return which snapshots can't be deleted, each with those whose disks lie on it.

        They are named as "the machine 'web-2'", a linked clone, or "the volume 'POOL/NAME'".
        """
        record = self._domain.record()
        if record is None:
            return {}
        found = merging.held(self._domain, record, backend.list_details(self._domain))
        return {name: tuple(map(str, users)) for name, users in found.items()}

    def sizes(self) -> dict[str, int]:
        """Return the bytes on the host of what each external snapshot holds.

        Those are its memory, its UEFI variables, and the layers that it froze, without the image
        underneath. What an internal one takes inside of the disks isn't known.
        """
        record = self._domain.record()
        if record is None:
            return {}
        return {
            entry.facts.name: files.size_of(self._domain, record, entry)
            for entry in backend.list_details(self._domain)
            if entry.facts.kind == SnapshotKind.EXTERNAL
        }


def _kind(asked: SnapshotKind | str | None) -> SnapshotKind | None:
    try:
        return None if asked is None else SnapshotKind(asked)
    except ValueError:
        raise UsageError(
            f"there is no kind of snapshot {asked!r}", hint=f"one of: {', '.join(SnapshotKind)}"
        ) from None
