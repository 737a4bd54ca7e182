"""What a new spec means for a machine, worked out before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vmctl.client_files import with_key_files
from vmctl.devices.machine import pinned
from vmctl.errors import ConflictError
from vmctl.intent.assignments import assign, written
from vmctl.intent.differences import Action, Difference, compare
from vmctl.intent.drift import Deviation, drift_of, pending_in
from vmctl.intent.matching import align
from vmctl.intent.rules import When
from vmctl.render.domain import with_macs
from vmctl.render.facts import HostFacts
from vmctl.render.templates import Templates
from vmctl.render.wishes import resolved_for
from vmctl.spec import NicSpec, VMSpec
from vmctl.spec.sizes import Size

__all__ = ["ChangePlan", "Machine", "is_any_time", "merged", "plan_change", "recorded_spec"]

# They are in vmctl's record or in libvirt's, and not in the machine.
_ANY_TIME = frozenset({"labels", "autostart", "profile"})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is known of the machine that is to be changed.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        spec: Its spec without secrets, as vmctl recorded it.
        definition: Its XML for the next start.
        running: Its XML as it runs; None where it is off.
        facts: What its host can do.
        templates: Where its XML was rendered from.
        overlaid: The targets of disks that an external snapshot has frozen: they go on in qcow2
            files, whatever they are made of.
        saved: Whether its next start goes on from a saved state.
    """

    name: str
    uuid: str
    spec: dict[str, Any]
    definition: str
    running: str | None
    facts: HostFacts
    templates: Templates | None = None
    overlaid: frozenset[str] = frozenset()
    saved: bool = False


@dataclass(frozen=True, kw_only=True)
class ChangePlan:
    """What differs between a machine and a spec.

    Attributes:
        name: The machine.
        differences: What the spec wants otherwise than it was recorded, and when that can be had.
        drift: What somebody else changed in the machine's definition; it is left as it is.
        pending: What the definition has already, and the machine gets at its next start.
    """

    name: str
    differences: tuple[Difference, ...]
    drift: tuple[Deviation, ...]
    pending: tuple[Deviation, ...]

    def those(self, *when: When) -> tuple[Difference, ...]:
        """Return the differences that can be made at some time."""
        return tuple(entry for entry in self.differences if entry.when in when)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def recorded_spec(machine: Machine) -> VMSpec:
    """Return a machine's spec as vmctl recorded it, resolved, with the MAC addresses of its NICs.

    Raises:
        ConflictError: There is none that this vmctl could read.
    """
    if not machine.spec:
        raise ConflictError(
            f"vmctl's record of '{machine.name}' has no spec",
            hint="it was made by a vmctl that did not keep it: change the machine by its verbs",
        )
    spec = VMSpec.from_record(machine.spec)
    return with_macs(spec.resolved(networks=machine.facts.privileged), machine.uuid)


def plan_change(
    wanted: VMSpec,
    machine: Machine,
    *,
    why_not_live: Callable[[Difference], str | None] = lambda _difference: None,
    size_of: Callable[[str], int | None] = lambda _target: None,
    fenced: Callable[[Sequence[NicSpec]], Sequence[NicSpec]] = lambda nics: nics,
) -> ChangePlan:
    """Compare a spec with a machine.

    Args:
        wanted: The spec as it was written.
        machine: The machine.
        why_not_live: Says why the running machine can't have a difference before its next start.
        size_of: Says how large a disk is, in bytes; None where it can't be told.
        fenced: Gives NICs with what the machine's tenant is kept from on their networks.

    Raises:
        SpecError: It can't be told which of the machine's devices the spec speaks of.
        UnsupportedError: The host can't do what the spec asks for.
        ConflictError: vmctl has no spec of the machine.
    """
    recorded = recorded_spec(machine)
    spec = _wanted_spec(wanted, recorded, machine)
    spec = spec.model_copy(update={"nics": tuple(fenced(spec.nics))})
    measured = _measured(recorded, spec, size_of)
    found = _in_time(compare(spec, measured), recorded, machine, why_not_live)
    hidden = _hidden(wanted, machine)
    if hidden is not None and not any(entry.path.startswith("cloud_init") for entry in found):
        found.append(hidden)
    return ChangePlan(
        name=machine.name,
        differences=tuple(found),
        drift=tuple(
            drift_of(
                recorded,
                machine.definition,
                facts=machine.facts,
                uuid=machine.uuid,
                templates=machine.templates,
                overlaid=machine.overlaid,
            )
        ),
        pending=()
        if machine.running is None
        else tuple(pending_in(machine.definition, machine.running)),
    )


def _wanted_spec(wanted: VMSpec, recorded: VMSpec, machine: Machine) -> VMSpec:
    # A secret can't be compared: what was given once is not kept.
    spec = VMSpec.from_record(with_key_files(wanted).without_secrets())
    if "max_vcpus" not in spec.model_fields_set and recorded.max_vcpus is not None:
        # Not written, it is as high as need be; a machine that can have more may keep that.
        spec = spec.model_copy(update={"max_vcpus": max(spec.vcpus, recorded.max_vcpus)})
    resolved = resolved_for(spec, machine.facts)
    return with_macs(_with_sizes(align(resolved, recorded), recorded), machine.uuid)


def _with_sizes(spec: VMSpec, recorded: VMSpec) -> VMSpec:
    """Leave a disk as large as it is where its size is not written: it may have grown since."""
    sizes = {disk.target: disk.size for disk in pinned(recorded).disks}
    disks = tuple(
        disk.model_copy(update={"size": sizes[disk.target]})
        if disk.size is None and sizes.get(disk.target) is not None
        else disk
        for disk in spec.disks
    )
    return spec.model_copy(update={"disks": disks})


def _measured(recorded: VMSpec, spec: VMSpec, size_of: Callable[[str], int | None]) -> VMSpec:
    """Return the machine's spec with the sizes that its disks have of their images.

    Only of disks that the new spec says a size of: whether that grows them can't be told otherwise.
    """
    sized = {disk.target for disk in spec.disks if disk.size is not None}
    disks = tuple(
        disk.model_copy(update={"size": Size(size)})
        if disk.size is None
        and disk.target in sized
        and disk.target is not None
        and (size := size_of(disk.target))
        else disk
        for disk in pinned(recorded).disks
    )
    return recorded.model_copy(update={"disks": disks})


def _hidden(wanted: VMSpec, machine: Machine) -> Difference | None:
    """Return the difference that secrets came, or went, of which only their place is recorded."""
    before = machine.spec.get("redacted") or []
    after = wanted.without_secrets().get("redacted") or []
    # A spec that was read from the record (`set`) has none at all, and changes none.
    if before == after or not after:
        return None
    return Difference(
        path="cloud_init",
        action=Action.CHANGE,
        before=before,
        after=after,
        when=When.ANEW,
        why="a guest is provisioned once, when it first boots",
    )


def _in_time(
    found: Sequence[Difference],
    recorded: VMSpec,
    machine: Machine,
    why_not_live: Callable[[Difference], str | None],
) -> list[Difference]:
    """Return the differences with what their machine and its state make of them."""
    root = next((f"disks.{disk.target}" for disk in pinned(recorded).disks), "")

    def timed(entry: Difference) -> Difference:
        if entry.path == root and entry.action is Action.REMOVE:
            why = f"it is the root disk: `vmctl disk detach --force {machine.name}` takes it away"
            return replace(entry, when=When.ANEW, why=why)
        if entry.when is not When.LIVE or is_any_time(entry):
            return entry
        problem = _why_off(machine) if machine.running is None else why_not_live(entry)
        return entry if problem is None else replace(entry, when=When.NEXT_START, why=problem)

    # What goes makes room for what comes, here as when it is done.
    order = sorted(found, key=lambda entry: entry.action is not Action.REMOVE)
    made = {entry.path: timed(entry) for entry in order}
    return [made[entry.path] for entry in found]


def _why_off(machine: Machine) -> str:
    if machine.saved:
        return "the machine has a saved state: it is not changed before it went on"
    return "the machine is off"


def is_any_time(entry: Difference) -> bool:
    """Return whether a difference is none of the machine itself, be it running, off or saved."""
    return entry.path.partition(".")[0] in _ANY_TIME


def merged(recorded: VMSpec, accepted: Sequence[Difference]) -> VMSpec:
    """Return a machine's spec with some differences made.

    Raises:
        SpecError: They make no valid spec without the others.
    """
    data = written(recorded)
    for entry in accepted:
        assign(data, entry.path, entry.after)
    return VMSpec.model_validate(data)
