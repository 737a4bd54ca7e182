"""How many processors a machine has, changed while it runs and for its next start."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lxml import etree

from vmctl.changes import carry_out, changing
from vmctl.devices.machine import not_live, recorded, spec_of
from vmctl.errors import (
    GuestUnreachableError,
    HostUnavailableError,
    UsageError,
    VmctlError,
    WaitTimeoutError,
)
from vmctl.hypervisor import hotplug, tuning
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.hotplug import Scope
from vmctl.hypervisor.metadata import Pending

__all__ = ["Processors", "processors_of", "set_vcpus", "why_not_live"]

_GUEST_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Processors:
    """The processors of a machine.

    Attributes:
        now: How many are plugged in; 0 for a machine that is off.
        guest: How many of them the guest uses, as its agent says; None where none answers.
        later: How many it has at its next start.
        maximum: How many there can be while it runs, or at its next start when it is off.
    """

    now: int
    guest: int | None
    later: int
    maximum: int


def processors_of(domain: Domain) -> Processors:
    """Return how many processors the machine has."""
    active = domain.is_active()
    later, most = _counts(hotplug.definition(domain, later=True))
    if active:
        _, most = _counts(hotplug.definition(domain, later=False))
    return Processors(
        now=tuning.active_vcpus(domain) if active else 0,
        guest=_guest(domain) if active else None,
        later=later,
        maximum=most,
    )


def _counts(root: etree._Element) -> tuple[int, int]:
    node = root.find("vcpu")
    most = 1 if node is None else int(node.text or 1)
    return most if node is None else int(node.get("current", most)), most


def _guest(domain: Domain) -> int | None:
    try:
        return tuning.guest_vcpus(domain)
    except HostUnavailableError:
        raise
    except VmctlError:
        # No agent, or one that does not know the command.
        return None


def why_not_live(domain: Domain, count: int) -> str | None:
    """Return why the running machine can't have so many processors; None if it can."""
    root = hotplug.definition(domain, later=False)
    _, most = _counts(root)
    if count > most:
        return f"'{domain.name}' can have {most} processors at most while it runs, not {count}"
    if domain.state() is State.PAUSED:
        return f"'{domain.name}' is paused: its guest can't take processors, or let go of them"
    emulated = root.get("type") == "qemu"
    if emulated and count < tuning.active_vcpus(domain) and _guest(domain) is None:
        return (
            f"'{domain.name}' runs without KVM, where only its guest's agent can switch "
            "processors off, and that does not answer"
        )
    return None


def set_vcpus(
    domain: Domain, count: int, *, next_start: bool = False, timeout: float = _GUEST_SECONDS
) -> Processors:
    """Give a machine another number of processors: while it runs, and at its next start.

    Processors are plugged in up to ``max_vcpus`` of its spec. Where KVM runs it, they are plugged
    out as well; under emulation QEMU can't do that, so the guest's agent switches them off.

    Args:
        domain: The machine.
        count: How many.
        next_start: Whether a running machine keeps those it has until then.
        timeout: Seconds that the guest has to use them, or to let go of them.

    Raises:
        UsageError: That is more than the maximum, or less than one.
        UnsupportedError: The running machine can't have so many before its next start.
        SpecError: They don't fit the arrangement (``cpu.topology``) in its spec.
        WaitTimeoutError: The guest did not do its part.
        ConflictError: Somebody else is at work on the machine.
    """
    if count < 1:
        raise UsageError(
            f"a machine has one processor at least, not {count}", hint="give 1 or more"
        )
    with changing(domain) as record:
        spec = spec_of(record)
        most = spec.max_vcpus or spec.vcpus
        scope = hotplug.scope_of(domain, next_start=next_start)
        asked_for = most > spec.vcpus
        if count > most and (scope.now or asked_for):
            raise UsageError(
                f"'{domain.name}' can have {most} processors at most, and {count} are asked for",
                hint="max_vcpus in its spec is the most that it can have"
                if asked_for
                else "make it for the next start only: next_start=True",
            )
        changed = spec.replace(vcpus=count, max_vcpus=max(count, most))
        if scope.now:
            problem = why_not_live(domain, count)
            if problem is not None:
                raise not_live(problem)

        def act() -> None:
            if scope.now:
                _change_now(domain, count, timeout=timeout)
            _change_later(domain, count)

        proof = f"vcpu[@current='{count}'] or vcpu[not(@current)]='{count}'"
        carry_out(domain, Pending.of_value(recorded(changed, record), proof), act)
    return processors_of(domain)


def _change_now(domain: Domain, count: int, *, timeout: float) -> None:
    plugged = tuning.active_vcpus(domain)
    emulated = hotplug.definition(domain, later=False).get("type") == "qemu"
    if count > plugged or (count < plugged and not emulated):
        tuning.set_vcpus(domain, count, Scope(now=True, later=False))
    try:
        _switch_in_guest(domain, count, timeout=timeout)
    except GuestUnreachableError:
        # What is plugged in is the guest's own matter then; under emulation, where nothing can be
        # plugged out, the agent was seen to answer before.
        return


def _switch_in_guest(domain: Domain, count: int, *, timeout: float) -> None:
    """Have the guest use as many processors as it shall, as soon as it has found them.

    Raises:
        WaitTimeoutError: It does not.
    """
    seen = tuning.guest_vcpus(domain)
    with domain.connection.events.listening(domain.uuid) as signal:

        def uses_them() -> bool | None:
            nonlocal seen
            seen = tuning.guest_vcpus(domain)
            if seen == count:
                return True
            tuning.set_guest_vcpus(domain, count)
            return None

        if signal.wait_for(uses_them, deadline=time.monotonic() + timeout, recheck=0.2):
            return
    raise WaitTimeoutError(
        f"the guest of '{domain.name}' uses {seen} processors after {timeout:g} s, not {count}",
        phase="processors",
        hint="a guest that is busy may need longer: set it again",
    )


def _change_later(domain: Domain, count: int) -> None:
    _, most = _counts(hotplug.definition(domain, later=True))
    if count <= most:
        tuning.set_vcpus(domain, count, Scope(now=False))
        return

    def change(root: etree._Element) -> etree._Element:
        node = root.find("vcpu")
        if node is not None:
            node.text = str(count)
            node.attrib.pop("current", "")
        for cell in root.findall("cpu/numa/cell"):
            cell.set("cpus", f"0-{count - 1}")
        return root

    hotplug.redefine(domain, change)
