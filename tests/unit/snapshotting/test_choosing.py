"""Which kind of snapshot a machine gets, and what is refused before anything is done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmctl.errors import (
    ConflictError,
    GuestUnreachableError,
    UnsupportedError,
    UsageError,
    VmctlError,
    WrongStateError,
)
from vmctl.snapshotting.choosing import DiskShape, MachineShape, SnapshotKind, choose

QCOW2 = DiskShape(target="vda", format="qcow2")
RAW = DiskShape(target="vdb", format="raw")
RUNNING = MachineShape(name="web", state="running", active=True, disks=(QCOW2,))
OFF = replace(RUNNING, state="shut off", active=False)
INTERNAL, EXTERNAL = SnapshotKind.INTERNAL, SnapshotKind.EXTERNAL


def yes() -> bool:
    return True


@pytest.mark.parametrize(
    ("machine", "asked", "kind", "memory", "quiesce", "why"),
    [
        (RUNNING, {}, INTERNAL, True, False, "all that it writes to is in qcow2 files"),
        (OFF, {}, INTERNAL, False, False, "all that it writes to is in qcow2 files"),
        (OFF, {"memory": False}, INTERNAL, False, False, "qcow2 files"),
        (replace(RUNNING, state="paused"), {}, INTERNAL, True, False, "qcow2 files"),
        (RUNNING, {"memory": False}, EXTERNAL, False, True, "holds its memory"),
        (RUNNING, {"memory": False, "quiesce": False}, EXTERNAL, False, False, "its memory"),
        (RUNNING, {"quiesce": True}, EXTERNAL, False, True, "holds its memory"),
        (replace(RUNNING, disks=(QCOW2, RAW)), {}, EXTERNAL, True, False, "disk 'vdb' is raw"),
        (
            replace(OFF, disks=(replace(RAW, type="block"),)),
            {},
            EXTERNAL,
            False,
            False,
            "the disk 'vdb' is a block device",
        ),
        (
            replace(RUNNING, disks=(replace(QCOW2, tracked=True),)),
            {},
            EXTERNAL,
            True,
            False,
            "'vda' is one that keeps track of changes for somebody",
        ),
        (replace(RUNNING, raw_variables=True), {}, EXTERNAL, True, False, "UEFI's variables"),
        (
            replace(RUNNING, memory_barrier="shared folders"),
            {},
            EXTERNAL,
            False,
            True,
            "(it has shared folders)",
        ),
        (
            replace(OFF, kinds=frozenset({EXTERNAL})),
            {},
            EXTERNAL,
            False,
            False,
            "has external snapshots already",
        ),
        (
            replace(OFF, kinds=frozenset({EXTERNAL, INTERNAL})),
            {},
            EXTERNAL,
            False,
            False,
            "has external snapshots already",
        ),
        (RUNNING, {"kind": EXTERNAL}, EXTERNAL, True, False, "it was asked for"),
        (RUNNING, {"kind": INTERNAL, "memory": True}, INTERNAL, True, False, "it was asked for"),
    ],
)
def test_what_is_chosen(
    machine: MachineShape,
    asked: dict[str, object],
    kind: SnapshotKind,
    memory: bool,
    quiesce: bool,
    why: str,
) -> None:
    choice = choose(machine, agent_answers=yes, **asked)  # type: ignore[arg-type]
    assert (choice.kind, choice.memory, choice.quiesce) == (kind, memory, quiesce)
    assert why in choice.why


def test_without_an_agent_nothing_is_frozen_by_itself() -> None:
    assert choose(RUNNING, memory=False).quiesce is False


def test_the_agent_is_asked_only_where_that_counts() -> None:
    def never() -> bool:
        raise AssertionError

    assert choose(RUNNING, agent_answers=never).memory
    assert not choose(OFF, agent_answers=never).quiesce
    assert not choose(RUNNING, memory=False, quiesce=False, agent_answers=never).quiesce


@pytest.mark.parametrize(
    ("machine", "asked", "error", "why"),
    [
        (RUNNING, {"memory": True, "quiesce": True}, UsageError, "needs no frozen file systems"),
        (OFF, {"memory": True}, WrongStateError, "it has no memory to snapshot"),
        (OFF, {"quiesce": True}, WrongStateError, "it has nothing to quiesce"),
        (replace(RUNNING, state="crashed"), {}, WrongStateError, "is crashed"),
        (replace(RUNNING, state="pmsuspended"), {}, WrongStateError, "is pmsuspended"),
        (RUNNING, {"quiesce": True}, GuestUnreachableError, "no agent answers"),
        (
            replace(RUNNING, memory_barrier="shared folders"),
            {"memory": True},
            UnsupportedError,
            "it has shared folders",
        ),
        (
            replace(RUNNING, disks=(QCOW2, RAW)),
            {"kind": INTERNAL},
            UnsupportedError,
            "the disk 'vdb' is raw",
        ),
        (RUNNING, {"kind": INTERNAL, "memory": False}, UnsupportedError, "holds its memory"),
        (
            replace(RUNNING, disks=(replace(QCOW2, barrier="shared with other machines"),)),
            {},
            UnsupportedError,
            "the disk 'vda' of 'web' is shared with other machines",
        ),
        (
            replace(RUNNING, kinds=frozenset({INTERNAL})),
            {"memory": False},
            ConflictError,
            "can't have external ones beside them: an internal snapshot",
        ),
        (
            replace(OFF, kinds=frozenset({INTERNAL})),
            {"kind": EXTERNAL},
            ConflictError,
            "has internal snapshots, and can't have external ones beside them",
        ),
        (
            replace(OFF, kinds=frozenset({EXTERNAL})),
            {"kind": INTERNAL},
            ConflictError,
            "has external snapshots, and can't have internal ones beside them",
        ),
    ],
)
def test_what_is_refused(
    machine: MachineShape, asked: dict[str, object], error: type[VmctlError], why: str
) -> None:
    with pytest.raises(error) as refused:
        choose(machine, **asked)  # type: ignore[arg-type]
    assert why in refused.value.brief
    assert refused.value.hint
