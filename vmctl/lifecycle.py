"""The verbs of a machine's power: what `VM` can do to one from outside of its guest.

As in `vmctl/vm.py`, a verb imports what it is made of.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vmctl.errors import ConflictError, VmctlError, WrongStateError
from vmctl.hypervisor import power as buttons
from vmctl.hypervisor import saves
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.exports import refuse_while_exported
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.progress import Reporter, being_undone

if TYPE_CHECKING:
    from vmctl.host import Host
    from vmctl.power import StartReport
    from vmctl.progress import ProgressCallback
    from vmctl.stopping import StopDeadlines, StopReport

__all__ = ["Lifecycle"]


class Lifecycle:
    """The part of `VM` that starts, stops, saves, dumps and renames."""

    _host: Host
    _domain: Domain

    @property
    def name(self) -> str:
        """Its name."""
        return self._domain.name

    def _record(self) -> Record:
        record = self._domain.record()
        if record is None:
            raise ConflictError(
                f"the machine '{self.name}' was not made by vmctl",
                hint="vmctl changes only what it made; use virsh for this one",
            )
        return record

    def _free_record(self) -> Record:
        """Return the record of a machine whose QEMU nobody has started for its disks alone.

        Raises:
            ConflictError: Somebody has, and is at it; or vmctl did not make it.
        """
        record = self._record()
        if not record.phase.is_detour:
            return record
        from vmctl import settling

        return settling.refuse_taken(self._domain, record)

    def _adopt(self, record: Record) -> None:
        """Take a machine over whose client was killed while it waited for the guest.

        Somebody goes on with it, so it is nothing for `gc` any more.
        """
        abandoned = record.claim is not None and record.claim.is_abandoned()
        if record.phase is Phase.PROVISIONING and abandoned:
            self._domain.update_record(claim=None, brought=(), started_networks=())

    def _forget_connection(self) -> None:
        self._host.sessions.drop(self._domain.uuid)
        self._host.consoles.drop(self._domain.uuid)

    def _active_state(self, verb: str) -> State:
        """Return the state of a machine that is not off."""
        state = self._domain.state()
        if not self._domain.is_active():
            raise self._is_off(verb, state)
        return state

    def _is_off(self, verb: str, state: State) -> WrongStateError:
        return WrongStateError(
            f"'{self.name}' is {state.value}: it can't {verb}",
            state=state.value,
            hint=f"start it: `vmctl start {self.name}`",
        )

    # -- on and off -------------------------------------------------------------------------------

    def start(
        self, *, discard_saved: bool = False, progress: ProgressCallback | None = None
    ) -> StartReport:
        """Start it; one that runs already is left so, one that is paused goes on.

        One that was saved goes on from where it was, and its guest's clock is set by its agent.
        It returns when QEMU runs; `wait` waits for the guest.

        Args:
            discard_saved: Whether to boot it though it has a saved state, which is lost.
            progress: Told of the one phase, ``start``.

        Returns:
            How it came to run: booted, restored, resumed; or that it did.

        Raises:
            ConflictError: vmctl did not make it, it is being exported, or a port that it forwards
                is in use, or a disk of it by another machine.
            WrongStateError: It crashed, and is kept so.
            HypervisorError: It can't go on from its saved state, which is kept.
        """
        from vmctl import power
        from vmctl.guest import ports

        record = self._record()
        refuse_while_exported(self.name, record)
        if record.phase in {Phase.CREATING, Phase.DELETING}:
            raise ConflictError(
                f"'{self.name}' is not whole: it is {record.phase.value}",
                hint="`vmctl gc` removes what a client left that was killed",
            )
        record = self._free_record()
        self._adopt(record)
        with Reporter(self.name, progress).phase("start") as phase:
            if not self._domain.is_active():
                return power.start(
                    self._domain, record.spec, discard_saved=discard_saved, phase=phase
                )
            state = self._domain.state()
            if state is State.CRASHED:
                raise WrongStateError(
                    f"'{self.name}' is crashed, and kept so: it can't be started",
                    state=state.value,
                    hint=f"boot it anew: `vmctl reset {self.name}`",
                )
            if state is State.SUSPENDED:
                buttons.wake(self._domain)
            power.go_on(self._domain, state)
            # One that came up with its host has none of them yet.
            ports.open_all(self._domain, record.spec)
            asleep = state in {State.PAUSED, State.SUSPENDED}
            return power.StartReport(how="resumed" if asleep else "was running")

    def stop(
        self,
        *,
        timeout: float = 60.0,
        force: bool = False,
        deadlines: StopDeadlines | None = None,
        progress: ProgressCallback | None = None,
    ) -> StopReport:
        """Shut it down: by its agent, by the ACPI power button, then by force if that is allowed.

        A guest that is paused hears nothing: it runs on for this, and is paused again if it does
        not stop.

        Args:
            timeout: Seconds that the guest has in all.
            force: Whether to pull the plug after that; at once, if the timeout is 0.
            deadlines: How much of that time each rung of the ladder has.
            progress: Told of the one phase, ``shutdown``, and what is tried in it.

        Returns:
            How it came to be off, and what was tried. One that was off is a success.

        Raises:
            ConflictError: vmctl did not make it.
            WaitTimeoutError: The guest did not stop in time, and ``force`` was not given.
            WrongStateError: It crashed and is kept so, and ``force`` was not given.
        """
        from vmctl import stopping

        self._free_record()
        with Reporter(self.name, progress).phase("shutdown") as phase:
            report = stopping.stop(
                self._domain,
                timeout=timeout,
                force=force,
                deadlines=deadlines or stopping.StopDeadlines(),
                phase=phase,
            )
        self._forget_connection()
        return report

    def restart(
        self,
        *,
        timeout: float = 60.0,
        force: bool = False,
        deadlines: StopDeadlines | None = None,
        progress: ProgressCallback | None = None,
    ) -> StopReport:
        """Stop it as `stop` does, and start it again. `wait` waits for the guest.

        Returns:
            How it was stopped.
        """
        report = self.stop(timeout=timeout, force=force, deadlines=deadlines, progress=progress)
        self.start(progress=progress)
        return report

    def reset(self) -> None:
        """Press its reset button: the guest boots anew, and gets no chance to end in order.

        One that crashed, and is kept so, runs again; one that is paused stays paused.

        Raises:
            ConflictError: vmctl did not make it.
            WrongStateError: It is off.
        """
        self._free_record()
        state = self._active_state("be reset")
        self._forget_connection()
        buttons.reset(self._domain)
        if state is State.CRASHED:
            self._domain.resume()

    # -- standing still ---------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop its processors; one that is paused already is left so.

        Raises:
            ConflictError: vmctl did not make it.
            WrongStateError: It is off, or crashed.
        """
        self._free_record()
        state = self._active_state("be paused")
        self._refuse_crashed(state, "be paused")
        if state is not State.PAUSED:
            self._domain.suspend()

    def resume(self) -> None:
        """Let it go on after `pause`; one that runs is left so.

        Raises:
            ConflictError: vmctl did not make it.
            WrongStateError: It is off, or crashed.
        """
        from vmctl import power

        self._free_record()
        state = self._active_state("resume")
        self._refuse_crashed(state, "resume")
        power.go_on(self._domain, state)

    def _refuse_crashed(self, state: State, verb: str) -> None:
        if state is State.CRASHED:
            raise WrongStateError(
                f"'{self.name}' is crashed, and kept so: it can't {verb}",
                state=state.value,
                hint=f"boot it anew: `vmctl reset {self.name}`",
            )

    def save(self, *, progress: ProgressCallback | None = None) -> None:
        """Write its memory to the host's disk and end it; its next start goes on from there.

        One that has a saved state already is left so. When this is interrupted, it runs on. While
        there is a saved state, its disks and its name are not to be changed.

        Args:
            progress: Told of the one phase, ``save``.

        Raises:
            ConflictError: vmctl did not make it.
            WrongStateError: It is off, or crashed, or has a device whose state can't be saved.
            ResourceError: The host has no room; the machine runs on.
        """
        from vmctl import power

        record = self._free_record()
        if saves.has_saved_state(self._domain):
            return
        self._refuse_crashed(self._active_state("be saved"), "be saved")
        with Reporter(self.name, progress).phase("save") as phase:
            phase.update("writing the guest's memory")
            try:
                saves.save(
                    self._domain,
                    tell=lambda fraction: phase.update("writing the guest's memory", fraction),
                )
            except VmctlError:
                raise
            except BaseException:
                # It was interrupted when all was written already.
                with being_undone():
                    if saves.has_saved_state(self._domain):
                        power.start(self._domain, record.spec)
                raise
        self._forget_connection()

    @property
    def saved(self) -> bool:
        """Whether its next start goes on from a saved state."""
        return saves.has_saved_state(self._domain)

    def discard_saved(self) -> bool:
        """Give up its saved state: what was in its memory is lost, and its next start boots it.

        Returns:
            Whether there was one.

        Raises:
            ConflictError: vmctl did not make it.
        """
        self._record()
        return saves.discard(self._domain)

    # -- looking into it --------------------------------------------------------------------------

    def nmi(self) -> None:
        """Send its guest a non-maskable interrupt, as the button of a server does.

        What it does with it is the guest's own matter: Linux logs it, or panics if it was told to
        (``kernel.unknown_nmi_panic``), Windows writes a dump.

        Raises:
            ConflictError: vmctl did not make it.
            WrongStateError: It is off, or crashed.
        """
        self._free_record()
        self._refuse_crashed(self._active_state("take an NMI"), "take an NMI")
        buttons.inject_nmi(self._domain)

    def dump(
        self,
        path: str | os.PathLike[str],
        *,
        format: str = "elf",  # noqa: A002 - the command's own word
        pool: str | None = None,
        replace: bool = False,
        progress: ProgressCallback | None = None,
    ) -> int:
        """Write its guest's memory into a file, for a debugger. The guest stands still meanwhile.

        What runs runs on afterwards, what is paused or crashed stays so. All of the guest's secrets
        are in the file, which this user alone can read.

        Args:
            path: The file, which appears when it is whole.
            format: ``elf``, ``kdump-zlib``, ``kdump-lzo``, ``kdump-snappy`` or ``win-dmp``.
            pool: The storage pool that it lies in on its way; None: the one with its disks.
            replace: Whether a file that is there is replaced.
            progress: Told of the phases ``dump`` and ``download``.

        Returns:
            The file's size in bytes.

        Raises:
            ConflictError: vmctl did not make it, or there is such a file.
            WrongStateError: It is off.
            ResourceError: The pool, or the file's folder, has no room.
            UnsupportedError: This QEMU, or this guest, has no dump of that format.
            RollbackError: What lay in the pool could not be removed.
        """
        from vmctl import dumping

        record = self._free_record()
        own = record.volumes[0].pool if record.volumes else self._host.default_pool
        return dumping.dump(
            self._domain,
            Path(path),
            form=format,
            pool=pool or own,
            replace=replace,
            reporter=Reporter(self.name, progress),
        )

    # -- what holds for later ---------------------------------------------------------------------

    @property
    def autostart(self) -> bool:
        """Whether it starts together with its host."""
        return self._domain.autostart()

    def set_autostart(self, on: bool) -> None:
        """Say whether it starts together with its host.

        Raises:
            ConflictError: vmctl did not make it, or somebody else is at work on it.
        """
        from vmctl.changes import changing

        with changing(self._domain, even_saved=True) as record:
            self._domain.set_autostart(on=on)
            if record.spec.get("autostart", False) is not on:
                self._domain.update_record(spec={**record.spec, "autostart": on})

    def rename(self, name: str) -> None:
        """Give it another name; it must be off. Its UUID stays, and all that goes by it.

        Its guest's host name is not changed, and its volumes keep their names.

        Raises:
            ConflictError: vmctl did not make it, somebody else is at work on it, another machine
                has that name, or it has an external snapshot with its memory in it.
            WrongStateError: It is not off, or has a saved state.
            UnsupportedError: An older vmctl made it, and its UEFI's variables lie in a file of
                libvirt's that has its name.
            UsageError: That can't be a machine's name.
        """
        from vmctl import renaming
        from vmctl.changes import changing

        renaming.refuse_bad_name(name)
        # Both change the definition and the spec in the record.
        with changing(self._domain, even_saved=True) as record:
            self._domain = renaming.rename(self._domain, record, name)
