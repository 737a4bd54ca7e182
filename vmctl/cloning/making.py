"""The transaction that makes a clone: as a launch, with disks that are copied.

The name is reserved by defining the clone, whose record lists what is going to be made and whose
disks are being copied. Whatever fails, all of it is undone; what a killed client left, `gc` finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vmctl import group_members, nic_filters
from vmctl.changes import alone
from vmctl.cloning.copying import Copying, Still
from vmctl.cloning.frozen import look_at_snapshot
from vmctl.cloning.inside import look_inside
from vmctl.cloning.origin import Origin, look_at, refuse_unready
from vmctl.cloning.planning import ClonePlan, plan_clone
from vmctl.errors import (
    ConflictError,
    NotFoundError,
    RollbackError,
    VmctlError,
)
from vmctl.hypervisor import names
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.exports import being_exported
from vmctl.hypervisor.metadata import Phase, Record, Role
from vmctl.hypervisor.snapshots import details_of
from vmctl.launch import Surroundings
from vmctl.networking.reserving import reserve
from vmctl.progress import ProgressCallback, Reporter, being_undone
from vmctl.removal import remove_machine
from vmctl.renaming import refuse_bad_name
from vmctl.snapshotting.choosing import SnapshotKind
from vmctl.transfer.source import Watched

__all__ = ["Cloned", "check_name", "clone"]

# Longer than the copying of any disks takes.
_CLAIM_SECONDS = 86400.0
# How long somebody else who reads the same disks is waited for.
_TURN_SECONDS = 3600.0


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
    snapshot: str | None = None,
    linked: bool = False,
    values: Mapping[str, Any],
    around: Surroundings,
    progress: ProgressCallback | None,
) -> Cloned:
    """Make a clone of a machine; see `VM.clone`.

    Args:
        domain: The machine.
        record: What vmctl knows of it.
        name: The clone's name.
        snapshot: The snapshot that it is made of; None: the machine as it is.
        linked: Whether its disks lie on the files that the snapshot froze.
        values: What the clone has in the place of what only one machine can have.
        around: Where its volumes go, and with whose key its guest is reached.
        progress: Told of the phases ``define`` and ``disks``.
    """
    check_name(domain, name)
    refuse_unready(domain, record)
    # A start that was over before this began is none that tears it.
    domain.connection.catch_up()
    with (
        claimed(_CLAIM_SECONDS) as claim,
        being_exported(domain, alone=partial(alone, domain), wait=_TURN_SECONDS),
        domain.connection.events.listening(domain.uuid) as heard,
    ):
        # Only from here on nobody of vmctl's changes it.
        check_name(domain, name)
        record = refuse_unready(domain, domain.record() or record)
        origin, still = _look(domain, record, snapshot, heard)
        plan = plan_clone(
            origin,
            name,
            linked=linked,
            values=values,
            pool_name=around.pool,
            key=around.key,
            templates=around.templates,
        )
        making = _Making(origin, plan, still, Reporter(name, progress))
        return making.run(replace(plan.record, claim=claim))


def _look(
    domain: Domain, record: Record, snapshot: str | None, heard: Signal
) -> tuple[Origin, Still | None]:
    """Look at what the clone is made of, and at what must not change meanwhile."""
    if snapshot is not None:
        if details_of(domain, snapshot).facts.kind != SnapshotKind.EXTERNAL:
            inside = look_inside(domain, record, snapshot)
            return inside, Watched(domain, record, heard)
        return look_at_snapshot(domain, record, snapshot)
    origin = look_at(domain, record)
    return origin, None if origin.running else Watched(domain, record, heard)


def check_name(domain: Domain, name: str) -> None:
    """Say that a name is bad, or taken, before any work is done for it; defining it decides.

    Raises:
        UsageError: It can't be a machine's name.
        ConflictError: A machine has it.
    """
    refuse_bad_name(name)
    try:
        names.find(domain.connection, name)
    except NotFoundError:
        return
    raise names.name_is_taken(name)


class _Making:
    def __init__(
        self, origin: Origin, plan: ClonePlan, still: Still | None, reporter: Reporter
    ) -> None:
        self._origin = origin
        self._plan = plan
        self._still = still
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
                reserve(self._clone, plan.spec, plan.addresses)
                nic_filters.keep_to_reserved(self._clone, plan.spec)
                group_members.refresh(self._connection, group_members.groups_of(record.spec))
            with self._reporter.phase("disks") as phase:
                copying = Copying(self._origin, plan, self._clone, phase)
                self._notes += copying.run(self._still)
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
