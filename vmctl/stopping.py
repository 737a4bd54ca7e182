"""The end of a run as a ladder: the agent, the power button, and force only where it is allowed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vmctl.errors import (
    GuestUnreachableError,
    HostUnavailableError,
    VmctlError,
    WaitTimeoutError,
    WrongStateError,
)
from vmctl.hypervisor import power, saves
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.events import Signal
from vmctl.progress import Phase

__all__ = ["StopDeadlines", "StopReport", "StopStep", "stop"]

# A guest that still boots does not see the button; it is pressed again.
_PRESS_AGAIN_SECONDS = 10.0
# libvirt itself waits for an agent that hangs, 5 s at a time.
_LEAST_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class StopDeadlines:
    """How long a guest has at each rung of the ladder, in seconds; 0 leaves a rung out.

    All of it together is bounded by the call's own ``timeout``.

    Attributes:
        agent: After its agent was asked to shut it down.
        acpi: After its power button was pressed first; None: all the time that is left.
    """

    agent: float = 20.0
    acpi: float | None = None


@dataclass(frozen=True, kw_only=True)
class StopStep:
    """One thing that was tried.

    Attributes:
        how: ``resume`` (of a paused guest, which hears nothing), ``agent``, ``acpi`` or ``force``.
        seconds: How long it took, or was waited for.
        said: What came of it, for people.
    """

    how: str
    seconds: float
    said: str


@dataclass(frozen=True, kw_only=True)
class StopReport:
    """How a machine came to be off.

    Attributes:
        ended_by: ``agent``, ``acpi`` or ``force``; ``was off`` for one that did not run.
        seconds: How long all of it took.
        steps: What was tried, in its order.
        saved: Whether there is a saved state that its next start goes on from.
    """

    ended_by: str
    seconds: float = 0.0
    steps: tuple[StopStep, ...] = ()
    saved: bool = False


def stop(
    domain: Domain,
    *,
    timeout: float,
    force: bool,
    deadlines: StopDeadlines,
    phase: Phase,
) -> StopReport:
    """Shut a machine down.

    Args:
        domain: The machine; one that is off already is left so.
        timeout: Seconds that the guest has in all.
        force: Whether to pull the plug after that.
        deadlines: How much of that time each rung has.
        phase: Told what is tried.

    Raises:
        WaitTimeoutError: The guest did not stop, and ``force`` was not given. It is as it was: one
            that was paused is paused.
        WrongStateError: It crashed and is kept so, and ``force`` was not given.
    """
    state = domain.state()
    if not domain.is_active():
        return StopReport(ended_by="was off", saved=saves.has_saved_state(domain))
    ladder = _Ladder(domain, phase)
    if state is State.CRASHED:
        if not force:
            raise WrongStateError(
                f"'{domain.name}' is crashed, so its guest can't shut down",
                state=state.value,
                hint=f"end it: `vmctl stop --force {domain.name}`; look into it first: "
                f"`vmctl dump {domain.name} FILE`",
            )
        return ladder.pull_the_plug()
    if timeout <= 0 and force:
        return ladder.pull_the_plug()
    with (
        power.ending_on_poweroff(domain),
        domain.connection.events.listening(domain.uuid) as signal,
    ):
        done = ladder.climb(state, signal, timeout=timeout, deadlines=deadlines)
        if done is not None:
            return done
        if force:
            return ladder.pull_the_plug()
        ladder.step_down(state)
    raise WaitTimeoutError(
        f"'{domain.name}' did not shut down within {timeout:g} s",
        phase="shutdown",
        details="\n".join(f"{step.how}: {step.said}" for step in ladder.steps)
        or "it was not asked to: there was no time for that",
        hint="give it more time with --timeout, or end it at once with --force",
    )


class _Ladder:
    def __init__(self, domain: Domain, phase: Phase) -> None:
        self._domain = domain
        self._phase = phase
        self._began = time.monotonic()
        self.steps: list[StopStep] = []

    def _note(self, how: str, since: float, said: str) -> None:
        self.steps.append(StopStep(how=how, seconds=_since(since), said=said))

    def _report(self, ended_by: str) -> StopReport:
        return StopReport(ended_by=ended_by, seconds=_since(self._began), steps=tuple(self.steps))

    def climb(
        self, state: State, signal: Signal, *, timeout: float, deadlines: StopDeadlines
    ) -> StopReport | None:
        """Try what lets the guest end in order; None when the time is over."""
        end = self._began + timeout
        if timeout > 0:
            self._let_it_hear(state)
        rungs: tuple[tuple[str, float | None, Callable[[Signal, float], bool]], ...] = (
            ("agent", deadlines.agent, self._ask_agent),
            ("acpi", deadlines.acpi, self._press),
        )
        for how, seconds, attempt in rungs:
            now = time.monotonic()
            until = end if seconds is None else min(end, now + seconds)
            if how == "acpi" and timeout > 0 and seconds != 0:
                # An agent that hangs may have taken all the time; the button has its turn.
                until = max(until, now + min(timeout, _LEAST_SECONDS))
            if until > now and attempt(signal, until):
                return self._report(how)
        if self._is_off():
            # It took its time, or had something else in mind.
            tried = [step.how for step in self.steps if step.how != "resume"]
            return self._report(tried[-1] if tried else "was off")
        return None

    def _let_it_hear(self, state: State) -> None:
        began = time.monotonic()
        if state is State.PAUSED:
            self._domain.resume()
            self._note("resume", began, "it was paused, and hears nothing then")
        elif state is State.SUSPENDED:
            power.wake(self._domain)
            self._note("resume", began, "it slept, and was woken")

    def step_down(self, state: State) -> None:
        """Leave a machine that did not stop as it was."""
        if state is State.PAUSED and self._domain.is_active():
            self._domain.suspend()

    def _is_off(self) -> bool | None:
        try:
            return True if not self._domain.is_active() else None
        except HostUnavailableError:
            # A libvirtd that restarts is back soon; if not, the next call says so.
            return None

    def _ask_agent(self, signal: Signal, until: float) -> bool:
        began = time.monotonic()
        refusal = self._refusal_of_agent()
        if refusal:
            self._note("agent", began, refusal)
            return False
        if signal.wait_for(self._is_off, deadline=until):
            self._note("agent", began, "shut down")
            return True
        self._note("agent", began, "was asked to shut down, and did not")
        return False

    def _refusal_of_agent(self) -> str:
        """Ask the agent; returns why it won't do it, and nothing if it took the order."""
        try:
            self._domain.agent("guest-ping", timeout=2)
        except VmctlError as error:
            # Whatever it says instead of an answer, the button and the plug are still there.
            return error.details.split("\n")[0] or error.brief
        self._phase.update("asking its agent")
        # Not by virDomainShutdownFlags, which itself waits a minute for the guest to be gone. This
        # command has no answer when it succeeds; an answer says that the guest can't do it.
        try:
            self._domain.agent("guest-shutdown", {"mode": "powerdown"}, timeout=1)
        except (GuestUnreachableError, WaitTimeoutError):
            return ""
        except VmctlError as error:
            return error.details.split("\n")[0] or error.brief
        return ""

    def _press(self, signal: Signal, until: float) -> bool:
        began = time.monotonic()
        presses = 0
        while time.monotonic() < until:
            self._phase.update("pressing its power button")
            try:
                self._press_once()
            except VmctlError:
                # It may be going off just now, which is seen a little later.
                soon = min(until, time.monotonic() + _LEAST_SECONDS)
                if not signal.wait_for(self._is_off, deadline=soon):
                    raise
            presses += 1
            deadline = min(until, time.monotonic() + _PRESS_AGAIN_SECONDS)
            if signal.wait_for(self._is_off, deadline=deadline):
                self._note("acpi", began, "shut down")
                return True
        self._note("acpi", began, f"its power button was pressed {_times(presses)}, to no avail")
        return False

    def _press_once(self) -> None:
        self._domain.shutdown()

    def pull_the_plug(self) -> StopReport:
        """End it by force."""
        began = time.monotonic()
        self._phase.update("ending it by force")
        self._domain.destroy()
        self._note("force", began, "the plug was pulled")
        return self._report("force")


def _since(moment: float) -> float:
    return round(time.monotonic() - moment, 3)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
