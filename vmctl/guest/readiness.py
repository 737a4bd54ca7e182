"""Waiting until a guest is really ready: each phase by facts, with a deadline of its own.

Running, an address, SSH with the pinned host key, and cloud-init's own verdict.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from vmctl.errors import (
    GuestError,
    GuestUnreachableError,
    HostKeyMismatchError,
    HostUnavailableError,
    PermissionDeniedError,
    VmctlError,
    WaitTimeoutError,
)
from vmctl.guest import addresses, cloudinit
from vmctl.guest.console import console_tail
from vmctl.guest.identity import KeyPair
from vmctl.guest.reach import Reach
from vmctl.guest.ssh import SSHSession, connect
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.metadata import Record, Role
from vmctl.progress import Phase, ProgressCallback, Reporter

__all__ = ["Deadlines", "log_in", "wait_until_ready"]

T = TypeVar("T")

# A stranger on the guest's address may be a stale lease: it is looked at again for a while.
_STRANGER_SECONDS = 20.0
_CONNECT_SECONDS = 5.0
# A libvirtd that restarts is back by then.
_OUTAGE_SECONDS = 45.0
# Longer than it takes to fetch a log after the verdict.
_GRACE_SECONDS = 120.0
# A forwarded port takes a connection before the guest is there to answer, and then tries the guest
# at growing intervals: a fresh connection is answered sooner. It gets longer each time, for guests
# that are merely slow.
_FIRST_BANNER_SECONDS = 1.0
_LAST_BANNER_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long each phase may take, in seconds.

    The defaults suit a full guest under emulation on a slow machine.
    """

    running: float = 60.0
    address: float = 300.0
    ssh: float = 300.0
    cloud_init: float = 900.0

    @property
    def total(self) -> float:
        """All phases together."""
        return self.running + self.address + self.ssh + self.cloud_init

    def shortened(self, seconds: float) -> Deadlines:
        """Return these with no phase longer than ``seconds``."""
        return Deadlines(
            running=min(self.running, seconds),
            address=min(self.address, seconds),
            ssh=min(self.ssh, seconds),
            cloud_init=min(self.cloud_init, seconds),
        )


def wait_until_ready(
    domain: Domain,
    record: Record,
    *,
    reach: Reach,
    key: KeyPair | None,
    deadlines: Deadlines,
    progress: ProgressCallback | None = None,
) -> SSHSession | None:
    """Wait until the guest is ready; returns the connection to it.

    Args:
        domain: The machine; it must have been started.
        record: vmctl's record of it. Without cloud-init there is nobody to ask inside, so it is
            ready when it runs, and None is returned.
        reach: How to reach it.
        key: The client's key.
        deadlines: How long each phase may take.
        progress: Told of every phase.

    Raises:
        WaitTimeoutError: A phase did not end; its details have what each source last said and
            the end of the console.
        ProvisioningError: cloud-init failed.
        HostKeyMismatchError: Somebody else answers.
        GuestError: The guest stopped while it was waited for.
    """
    with domain.connection.events.listening(domain.uuid) as signal:
        waiter = _Waiter(domain, record, signal, Reporter(domain.name, progress), reach)
        waiter.running(deadlines.running)
        if not record.host_key or key is None:
            return None
        waiter.address(deadlines.address)
        session = waiter.ssh(deadlines.ssh, key)
        return waiter.cloud_init(deadlines.cloud_init, session, key)


def log_in(
    domain: Domain, record: Record, *, reach: Reach, key: KeyPair, timeout: float
) -> SSHSession:
    """Connect to a guest that is expected to be up.

    Args:
        domain: The machine.
        record: vmctl's record of it.
        reach: How to reach it.
        key: The client's key.
        timeout: Seconds to try.

    Raises:
        GuestUnreachableError: It can't be reached in that time; the details say what each address
            answered.
        HostKeyMismatchError: Somebody else answers.
    """
    attempt = _Attempt(domain, record, reach, key, patience=0.0)
    with domain.connection.events.listening(domain.uuid) as signal:
        session = signal.wait_for(attempt.connect, deadline=time.monotonic() + timeout)
    if session is None:
        raise GuestUnreachableError(
            f"'{domain.name}' can't be reached by SSH",
            details=attempt.describe(),
            hint=f"is it up? `vmctl wait {domain.name}`, `vmctl logs {domain.name}`",
        )
    return session


class _Outage:
    """Bears a libvirtd that restarts, for its guests run on; but not one that is gone."""

    def __init__(self) -> None:
        self._since: float | None = None

    @contextmanager
    def borne(self) -> Iterator[None]:
        """Leave the block when the host can't be reached, unless that has lasted too long."""
        try:
            yield
        except PermissionDeniedError:
            raise
        except HostUnavailableError:
            now = time.monotonic()
            self._since = self._since or now
            if now - self._since > _OUTAGE_SECONDS:
                raise
        else:
            self._since = None


class _Waiter:
    def __init__(
        self, domain: Domain, record: Record, signal: Signal, reporter: Reporter, reach: Reach
    ) -> None:
        self._reach = reach
        self._outage = _Outage()
        self._domain = domain
        self._record = record
        self._signal = signal
        self._reporter = reporter

    def running(self, seconds: float) -> None:
        with self._reporter.phase("running") as phase:

            def check() -> State | None:
                state = self._domain.state()
                phase.update(state.value)
                return state if state in {State.RUNNING, State.IDLE} else None

            self._wait(check, "running", seconds, phase, may_stop=True)

    def address(self, seconds: float) -> None:
        with self._reporter.phase("address") as phase:
            last = addresses.Sighting()

            def check() -> addresses.Sighting | None:
                nonlocal last
                last = addresses.look(self._domain, self._record.spec, reach=self._reach)
                phase.update(", ".join(map(str, last.endpoints)) or "nobody knows one yet")
                return last if last.endpoints else None

            self._wait(check, "address", seconds, phase, said=lambda: last.describe())  # noqa: PLW0108 - `last` changes

    def ssh(self, seconds: float, key: KeyPair) -> SSHSession:
        with self._reporter.phase("ssh") as phase:
            attempt = _Attempt(self._domain, self._record, self._reach, key)

            def check() -> SSHSession | None:
                session = attempt.connect()
                phase.update(attempt.said_last)
                return session

            return self._wait(check, "ssh", seconds, phase, said=attempt.describe)

    def cloud_init(self, seconds: float, session: SSHSession, key: KeyPair) -> SSHSession:
        deadline = time.monotonic() + seconds
        with self._reporter.phase("cloud-init") as phase:
            while True:
                phase.update("waiting for its verdict")
                try:
                    verdict = self._verdict(session, deadline)
                except WaitTimeoutError as error:
                    session.close()
                    raise self._too_late("cloud-init", seconds, str(error)) from error
                except GuestUnreachableError as error:
                    # The guest reboots, perhaps because cloud-init was told to.
                    session.close()
                    phase.update(error.brief)
                    if time.monotonic() >= deadline:
                        raise self._too_late("cloud-init", seconds, str(error)) from error
                    session = self.ssh(max(1.0, deadline - time.monotonic()), key)
                except BaseException:
                    session.close()
                    raise
                else:
                    phase.update("; ".join((verdict.status, *verdict.warnings)))
                    return session

    def _verdict(self, session: SSHSession, deadline: float) -> cloudinit.Verdict:
        """Ask cloud-init, and look meanwhile whether the guest still runs."""
        with ThreadPoolExecutor(1, thread_name_prefix="vmctl-cloud-init") as threads:
            asked = threads.submit(
                cloudinit.judge,
                session,
                machine=self._domain.name,
                timeout=max(1.0, deadline - time.monotonic()),
                seeded=self._record.volume(Role.SEED) is not None,
            )
            asked.add_done_callback(lambda _asked: self._signal.notify())

            def check() -> bool | None:
                with self._outage.borne():
                    self._still_alive("cloud-init")
                return True if asked.done() else None

            try:
                # The question has the deadline; this one only must not be the first to give up.
                self._signal.wait_for(check, deadline=deadline + _GRACE_SECONDS)
            except BaseException:
                # Ends the thread, for which leaving the block waits.
                session.close()
                raise
            return asked.result()

    def _wait(
        self,
        check: Callable[[], T | None],
        name: str,
        seconds: float,
        phase: Phase,
        *,
        said: Callable[[], str] = str,
        may_stop: bool = False,
    ) -> T:
        def check_alive() -> T | None:
            with self._outage.borne():
                if not may_stop:
                    self._still_alive(name)
                return check()
            phase.update("the host is out of reach for the moment")
            return None

        found = self._signal.wait_for(check_alive, deadline=time.monotonic() + seconds)
        if found is None:
            raise self._too_late(name, seconds, said() or phase.detail)
        return found

    def _still_alive(self, phase: str) -> None:
        state = self._domain.state()
        if state in {State.SHUT_OFF, State.CRASHED}:
            raise GuestError(
                f"the guest of '{self._domain.name}' stopped ({state.value}) "
                f"while its {phase} was waited for",
                details=console_tail(self._domain.connection, self._record),
                hint="the end of its console says how far it came",
            )

    def _too_late(self, phase: str, seconds: float, said: str) -> WaitTimeoutError:
        return WaitTimeoutError(
            f"'{self._domain.name}' was not ready in time: "
            f"the phase '{phase}' did not end within {seconds:g} s",
            phase=phase,
            details=f"{said}\n{console_tail(self._domain.connection, self._record)}".strip(),
            hint="look at its console: `vmctl logs`; give the phase more time if it is merely slow",
        )


class _Attempt:
    """Tries to log in, again and again, and remembers what each endpoint answered."""

    def __init__(
        self,
        domain: Domain,
        record: Record,
        reach: Reach,
        key: KeyPair,
        *,
        patience: float = _STRANGER_SECONDS,
    ) -> None:
        self._patience = patience
        self._banner = _FIRST_BANNER_SECONDS
        self._domain = domain
        self._record = record
        self._reach = reach
        self._key = key
        self._answers: dict[str, str] = {}
        self._stranger_since: float | None = None
        self.said_last = ""

    def describe(self) -> str:
        return "\n".join(f"{where}: {answer}" for where, answer in self._answers.items())

    def connect(self) -> SSHSession | None:
        sighting = addresses.look(self._domain, self._record.spec, reach=self._reach)
        if not sighting.endpoints:
            self._answers = {"address": sighting.describe()}
        stranger: HostKeyMismatchError | None = None
        for endpoint in sighting.endpoints:
            try:
                return self._log_in(endpoint)
            except HostKeyMismatchError as error:
                stranger = error
                self._note(endpoint, error.brief)
            except VmctlError as error:
                self._note(endpoint, error.details or error.brief)
                self._banner = min(self._banner * 1.3, _LAST_BANNER_SECONDS)
            except OSError as error:
                self._note(endpoint, error.strerror or str(error) or type(error).__name__)
        self._judge(stranger)
        return None

    def _log_in(self, endpoint: addresses.Endpoint) -> SSHSession:
        sock = self._reach.open(endpoint.address, endpoint.port, timeout=_CONNECT_SECONDS)
        session = connect(
            sock,
            machine=self._domain.name,
            user=self._record.ssh_user,
            host_key=self._record.host_key,
            key=self._key,
            banner_timeout=self._banner,
        )
        self.said_last = str(endpoint)
        return session

    def _note(self, endpoint: addresses.Endpoint, answer: str) -> None:
        self.said_last = f"{endpoint}: {answer}"
        self._answers[str(endpoint)] = answer

    def _judge(self, stranger: HostKeyMismatchError | None) -> None:
        if stranger is None:
            self._stranger_since = None
            return
        now = time.monotonic()
        self._stranger_since = self._stranger_since or now
        if now - self._stranger_since >= self._patience:
            raise stranger
