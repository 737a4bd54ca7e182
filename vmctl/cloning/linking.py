"""A linked clone of a machine as it is: a snapshot first, which is the clone's to lie on."""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Mapping
from typing import Any

from vmctl.cloning.making import Cloned, check_name
from vmctl.cloning.making import clone as clone_snapshot
from vmctl.cloning.origin import refuse_unready
from vmctl.cloning.wanted import wanted_spec
from vmctl.errors import ConflictError, RollbackError, VmctlError
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record
from vmctl.launch import Surroundings
from vmctl.progress import ProgressCallback, being_undone
from vmctl.snapshots import SnapshotKind, Snapshots
from vmctl.snapshotting import lending
from vmctl.snapshotting.settling import settle_abandoned

__all__ = ["clone"]

# Longer than a snapshot and the wait for somebody else who reads the disks take.
_CLAIM_SECONDS = 7200.0


def clone(
    domain: Domain,
    record: Record,
    name: str,
    *,
    snapshots: Snapshots,
    values: Mapping[str, Any],
    around: Surroundings,
    progress: ProgressCallback | None,
) -> Cloned:
    """Take a snapshot of a machine, named after the clone, and make a clone that lies on it.

    Killed in between, the snapshot goes with the next work on its snapshots, or with `gc`.
    """
    check_name(domain, name)
    refuse_unready(domain, record)
    # What the clone can't be is said before the guest stands still for a snapshot.
    wanted_spec(record.spec, name=name, uuid=str(uuid_module.uuid4()), values=values)
    settle_abandoned(domain, domain.record() or record)
    snapshots.refuse_taken(name)
    with claimed(_CLAIM_SECONDS) as claim:
        lending.lend(domain, name, claim)
        taken = False
        try:
            snapshots.create(
                name,
                kind=SnapshotKind.EXTERNAL,
                memory=False,
                description=f"what the disks of the machine '{name}' lie on",
                progress=progress,
            )
            taken = True
            made = clone_snapshot(
                domain,
                record,
                name,
                snapshot=name,
                linked=True,
                values=values,
                around=around,
                progress=progress,
            )
        except BaseException as error:
            with being_undone():
                ours = taken or not isinstance(error, ConflictError)
                _take_back(snapshots, domain, name, error, taken=ours)
            raise
        with being_undone():
            outlasting(lambda: lending.hand_over(domain, name))
    return made


def _take_back(
    snapshots: Snapshots, domain: Domain, name: str, error: BaseException, *, taken: bool
) -> None:
    def undo() -> None:
        # In a conflict about the snapshot, one of that name is somebody else's.
        if taken and name in {entry.name for entry in snapshots.list()}:
            snapshots.delete(name)
        lending.hand_over(domain, name)

    try:
        outlasting(undo)
    except VmctlError as failure:
        raise RollbackError(
            f"the cloning of '{domain.name}' failed, and not all of it could be undone",
            left=(f"the snapshot '{name}' of '{domain.name}'",),
            details=f"it failed because: {error}\nthe undoing failed because: {failure}",
            hint=f"mend the cause, then `vmctl snapshot delete {domain.name} {name}`",
        ) from error
