"""Which kind of snapshot a machine gets, and why. Pure: facts in, a choice out.

An internal snapshot lies inside the machine's qcow2 disks, costs no files and is deleted at once.
It always holds the memory of a machine that runs, and it can't hold a raw disk, nor UEFI's
variables in a raw file. An external one freezes the files and lets the machine go on in new ones:
it can hold everything, and costs a layer. A machine has one kind at a time: going back to an
internal one would change the files that external ones have frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from vmctl.errors import (
    ConflictError,
    GuestUnreachableError,
    UnsupportedError,
    UsageError,
    VmctlError,
    WrongStateError,
)

__all__ = ["Choice", "DiskShape", "MachineShape", "SnapshotKind", "choose"]


class SnapshotKind(StrEnum):
    """Where a snapshot lies."""

    INTERNAL = "internal"
    EXTERNAL = "external"


@dataclass(frozen=True, kw_only=True)
class DiskShape:
    """A disk that its machine writes to.

    Attributes:
        target: Its name on its bus.
        format: How it is written.
        type: libvirt's word for what it is: ``file``, ``block``, ``network`` ...
        barrier: Why it can't be in an external snapshot; empty where it can.
        tracked: Whether it keeps track of changes for somebody whom libvirt doesn't know.
    """

    target: str
    format: str
    type: str = "file"
    barrier: str = ""
    tracked: bool = False

    @property
    def holds_snapshots(self) -> bool:
        """Whether an internal snapshot can lie in it."""
        return self.format == "qcow2" and not self.barrier and not self.tracked

    def __str__(self) -> str:
        what = self.format if self.type == "file" else f"a {self.type} device"
        if self.tracked:
            what = "one that keeps track of changes for somebody"
        return f"the disk '{self.target}' is {self.barrier or what}"


@dataclass(frozen=True, kw_only=True)
class MachineShape:
    """What decides how a machine is snapshotted.

    Attributes:
        name: Its name.
        state: libvirt's word for its state.
        active: Whether QEMU is there for it.
        disks: The disks that it writes to.
        raw_variables: Whether its UEFI's variables lie in a file that holds no snapshots.
        memory_barrier: What keeps its memory from being saved; empty for nothing.
        kinds: The kinds of the snapshots that it has.
    """

    name: str
    state: str
    active: bool
    disks: tuple[DiskShape, ...]
    raw_variables: bool = False
    memory_barrier: str = ""
    kinds: frozenset[SnapshotKind] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How it is done.

    Attributes:
        kind: Of which kind the snapshot is.
        memory: Whether the memory of the running machine is in it.
        quiesce: Whether its guest's file systems are frozen for it.
        why: Why it is of that kind, as one sentence without a full stop.
    """

    kind: SnapshotKind
    memory: bool
    quiesce: bool
    why: str


def choose(
    machine: MachineShape,
    *,
    kind: SnapshotKind | None = None,
    memory: bool | None = None,
    quiesce: bool | None = None,
    agent_answers: Callable[[], bool] = lambda: False,
) -> Choice:
    """Choose the kind of a snapshot, and what is in it.

    Args:
        machine: The machine.
        kind: The kind that is asked for; None: the best one.
        memory: Whether its memory shall be in it; None: if it runs, and that can be.
        quiesce: Whether its guest's file systems are frozen for it; None: if only the disks of a
            running guest are in it, and its agent answers.
        agent_answers: Asked whether the guest has an agent, where that counts.

    Raises:
        UsageError: What is asked for excludes itself.
        WrongStateError: The machine's state does not allow it.
        ConflictError: It has snapshots of the other kind.
        UnsupportedError: A disk can't be in a snapshot, or not in one of that kind.
        GuestUnreachableError: It shall be quiesced, and has no agent.
    """
    _refuse_contradictions(machine, memory, quiesce)
    with_memory = machine.active and memory is not False and quiesce is not True
    if with_memory and machine.memory_barrier:
        if memory:
            raise _memory_is_barred(machine)
        with_memory = False
    disk_only = machine.active and not with_memory
    choice = _kind_of(machine, kind, disk_only=disk_only)
    if choice.kind is SnapshotKind.EXTERNAL:
        _refuse_barriers(machine)
    if quiesce and not agent_answers():
        raise GuestUnreachableError(
            f"no agent answers in '{machine.name}', so its file systems can't be frozen",
            hint="without --quiesce the disks are as after a power cut; or start "
            "qemu-guest-agent in the guest",
        )
    quiet = quiesce is True or (quiesce is None and disk_only and agent_answers())
    return replace(choice, memory=with_memory, quiesce=quiet)


def _refuse_contradictions(
    machine: MachineShape, memory: bool | None, quiesce: bool | None
) -> None:
    if memory and quiesce:
        raise UsageError(
            "a snapshot that holds the memory needs no frozen file systems",
            hint="ask for one of them: --memory or --quiesce",
        )
    for wanted, what in ((memory, "no memory to snapshot"), (quiesce, "nothing to quiesce")):
        if wanted and not machine.active:
            raise WrongStateError(
                f"'{machine.name}' is {machine.state}: it has {what}",
                state=machine.state,
                hint=f"leave that out, or start it: `vmctl start {machine.name}`",
            )
    if machine.active and machine.state not in {"running", "paused"}:
        raise WrongStateError(
            f"'{machine.name}' is {machine.state}: it can't be snapshotted",
            state=machine.state,
            hint="see why: `vmctl info`; start it, or stop it first",
        )


def _memory_is_barred(machine: MachineShape) -> VmctlError:
    return UnsupportedError(
        f"the memory of '{machine.name}' can't be snapshotted: it has {machine.memory_barrier}",
        hint="snapshot its disks alone, by --no-memory or memory=False",
    )


def _kind_of(machine: MachineShape, asked: SnapshotKind | None, *, disk_only: bool) -> Choice:
    needs = _why_external(machine, disk_only=disk_only)
    if asked is SnapshotKind.INTERNAL and needs:
        raise UnsupportedError(
            f"'{machine.name}' can't have an internal snapshot: {needs}",
            hint="leave the kind to vmctl, or ask for an external one",
        )
    has = next(iter(sorted(machine.kinds)), None)
    # Those of virsh may be of both kinds; then the external ones count.
    if SnapshotKind.EXTERNAL in machine.kinds:
        has = SnapshotKind.EXTERNAL
    wanted = asked or (SnapshotKind.EXTERNAL if needs else None)
    if wanted is not None and has is not None and wanted is not has:
        raise ConflictError(
            f"'{machine.name}' has {has} snapshots, and can't have {wanted} ones beside them"
            + (f": {needs}" if needs and asked is None else ""),
            hint="a machine has one kind at a time: delete the others first",
        )
    if needs:
        return Choice(kind=SnapshotKind.EXTERNAL, memory=False, quiesce=False, why=needs)
    if wanted is not None:
        why = "it was asked for"
        return Choice(kind=wanted, memory=False, quiesce=False, why=why)
    if has is SnapshotKind.EXTERNAL:
        why = "the machine has external snapshots already"
        return Choice(kind=SnapshotKind.EXTERNAL, memory=False, quiesce=False, why=why)
    why = "all that it writes to is in qcow2 files, which hold snapshots themselves"
    return Choice(kind=SnapshotKind.INTERNAL, memory=False, quiesce=False, why=why)


def _why_external(machine: MachineShape, *, disk_only: bool) -> str:
    """Return why no internal snapshot is possible; empty when it is."""
    if machine.raw_variables:
        return "UEFI's variables lie in a raw file, which holds no snapshots"
    for disk in machine.disks:
        if not disk.holds_snapshots or disk.type != "file":
            return f"{disk}, which holds no snapshots"
    if disk_only:
        barred = f" (it has {machine.memory_barrier})" if machine.memory_barrier else ""
        return (
            f"an internal snapshot of a running machine holds its memory, and this does not{barred}"
        )
    return ""


def _refuse_barriers(machine: MachineShape) -> None:
    for disk in machine.disks:
        if disk.barrier:
            raise UnsupportedError(
                f"the disk '{disk.target}' of '{machine.name}' is {disk.barrier}, "
                "so it can't be in a snapshot",
                hint="detach it first, or attach it read-only: those are left out",
            )
