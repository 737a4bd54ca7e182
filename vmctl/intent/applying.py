"""Doing what a change plan says: what is live at once, all else in one new definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmctl.changes import changing
from vmctl.devices.memory import refuse_more_than_host
from vmctl.errors import ConflictError, VmctlError
from vmctl.hypervisor.domains import Domain
from vmctl.intent.by_verb import is_by_verb
from vmctl.intent.differences import Action, Difference
from vmctl.intent.planning import ChangePlan, Machine, is_any_time, merged, recorded_spec
from vmctl.intent.redefining import redefine
from vmctl.intent.rules import When
from vmctl.networking.moving import moved
from vmctl.progress import Phase

__all__ = ["Applied", "apply"]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What `VM.apply` did.

    Attributes:
        plan: What differed before.
        made: The paths of the differences that were made.
        waiting: Those of them that the machine has from its next start on.
        left: The paths of those that were not accepted.
    """

    plan: ChangePlan
    made: tuple[str, ...]
    waiting: tuple[str, ...]
    left: tuple[str, ...]


def refuse_anew(plan: ChangePlan) -> None:
    """Refuse what only a new machine could have.

    Raises:
        ConflictError: There is such a difference.
    """
    anew = plan.those(When.ANEW)
    if anew:
        raise ConflictError(
            f"'{plan.name}' would have to be made anew for "
            + ", ".join(entry.path for entry in anew),
            details="\n".join(f"{entry.path}: {entry.why}" for entry in anew),
            hint="nothing was changed; --skip-anew makes the other changes",
        )


def refuse_other(plan: ChangePlan, shown: ChangePlan) -> None:
    """Refuse to do anything else than what was shown and accepted.

    Raises:
        ConflictError: The machine was changed since, so that something else differs.
    """
    if plan.differences != shown.differences:
        raise ConflictError(
            f"'{plan.name}' was changed meanwhile, so that other things differ than were shown",
            hint="nothing was changed; run it again to see what differs now",
        )


def apply(
    domain: Domain,
    plan: ChangePlan,
    accepted: tuple[Difference, ...],
    *,
    look: Callable[[], Machine],
    make: Callable[[Difference], None],
    phase: Phase,
) -> Applied:
    """Make the accepted differences.

    Each device's own verb records what it did, so that whatever fails later, record and machine
    agree, and the next run goes on from there.

    Args:
        domain: The machine.
        plan: What differs.
        accepted: What of it is to be made.
        look: Looks at the machine as it is now.
        make: Makes one difference by its device's verb.
        phase: Told what is being made.

    Raises:
        VmctlError: One could not be made; ``details`` say which were.
    """
    made: list[str] = []
    paths = {entry.path for entry in accepted}
    first = [entry for entry in accepted if is_by_verb(entry) and not _needs_most(entry, paths)]
    rest = [entry for entry in accepted if entry not in first]
    try:
        for entry in sorted(first, key=_order):
            phase.update(f"{entry.action.value} {entry.path}")
            make(entry)
            made.append(entry.path)
        if rest:
            phase.update("recording the new definition")
            _redefine(domain, look, rest)
            made += [entry.path for entry in rest]
    except VmctlError as error:
        left = [entry.path for entry in accepted if entry.path not in made]
        error.details = "\n".join(
            filter(
                None,
                (
                    error.details,
                    f"made: {', '.join(made) or 'nothing'}",
                    f"not made: {', '.join(left)}",
                ),
            )
        )
        raise
    return Applied(
        plan=plan,
        made=tuple(made),
        waiting=tuple(entry.path for entry in accepted if entry.when is When.NEXT_START),
        left=tuple(entry.path for entry in plan.differences if entry not in accepted),
    )


def _needs_most(entry: Difference, paths: set[str]) -> bool:
    """Return whether what waits has to be defined together with the most that there can be."""
    return entry.when is When.NEXT_START and f"max_{entry.path}" in paths


def _order(entry: Difference) -> int:
    """What goes makes room for what comes."""
    return (Action.REMOVE, Action.CHANGE, Action.ADD).index(entry.action)


def _redefine(domain: Domain, look: Callable[[], Machine], rest: list[Difference]) -> None:
    with changing(domain, even_saved=all(map(is_any_time, rest))) as record:
        machine = look()
        wanted = merged(recorded_spec(machine), rest)
        refuse_more_than_host(domain.name, wanted.memory, machine.facts)
        resolved = wanted.resolved(networks=machine.facts.privileged)
        with moved(domain, record, recorded_spec(machine), resolved) as now:
            redefine(domain, machine, now, resolved)
        for entry in rest:
            if entry.path == "autostart":
                domain.set_autostart(on=bool(entry.after))
