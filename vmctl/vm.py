"""A handle to one machine, and its verbs.

A verb imports what it is made of when it is called: who runs a command in a guest doesn't wait for
what attaches disks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vmctl.backing_up.verbs import BackingUp
from vmctl.cloning.verb import Cloning
from vmctl.errors import UsageError
from vmctl.hypervisor.metadata import Phase
from vmctl.inside import Inside
from vmctl.lifecycle import Lifecycle
from vmctl.progress import Reporter

if TYPE_CHECKING:
    from vmctl import info
    from vmctl.audit import Audit
    from vmctl.console import ConsoleAccess
    from vmctl.devices import memory, processors
    from vmctl.devices.disks import Disks
    from vmctl.devices.media import Cdroms
    from vmctl.devices.nics import Nics
    from vmctl.devices.ports import Ports
    from vmctl.events import EventKind, EventStream
    from vmctl.guest.readiness import Deadlines
    from vmctl.host import Host
    from vmctl.hypervisor.domains import Domain
    from vmctl.intent.applying import Applied
    from vmctl.intent.asking import Intent
    from vmctl.intent.planning import ChangePlan
    from vmctl.networking.discovery import AddressReport
    from vmctl.progress import ProgressCallback
    from vmctl.screen import Screen
    from vmctl.snapshots import Snapshots
    from vmctl.spec import VMSpec
    from vmctl.stats import MachineStats

__all__ = ["VM"]


class VM(Lifecycle, Inside, Cloning, BackingUp):
    """One machine. Thread-safe; it stays valid when libvirtd restarts.

    Get one from `Host.launch`, `Host.create` or `Host.get`.
    """

    def __init__(self, host: Host, domain: Domain) -> None:
        self._host = host
        self._domain = domain

    def __repr__(self) -> str:
        return f"<VM {self.name!r} {self.uuid}>"

    @property
    def uuid(self) -> str:
        """Its UUID."""
        return self._domain.uuid

    @property
    def state(self) -> str:
        """Its state, in libvirt's words: ``running``, ``paused``, ``shut off`` ...

        Raises:
            NotFoundError: It is gone.
        """
        return self._domain.state().value

    @property
    def snapshots(self) -> Snapshots:
        """Its snapshots."""
        from vmctl.snapshots import Snapshots

        return Snapshots(
            self._domain,
            facts=lambda: self._host.facts,
            record=self._record,
            forget_connection=self._forget_connection,
        )

    @property
    def disks(self) -> Disks:
        """Its disks."""
        from vmctl.devices.disks import Disks

        return Disks(self._domain, pool=self._host.pool, templates=self._host.templates)

    @property
    def nics(self) -> Nics:
        """Its network interfaces."""
        from vmctl.devices.nics import Nics

        return Nics(self._domain, facts=self._host.facts, templates=self._host.templates)

    @property
    def ports(self) -> Ports:
        """The ports of the host that lead into it."""
        from vmctl.devices.ports import Ports

        return Ports(self._domain)

    @property
    def cdroms(self) -> Cdroms:
        """Its CD-ROM drives."""
        from vmctl.devices.media import Cdroms

        return Cdroms(self._domain, pool=self._host.pool, templates=self._host.templates)

    @property
    def console(self) -> ConsoleAccess:
        """Its serial console."""
        from vmctl.console import ConsoleAccess

        return ConsoleAccess(self._domain, record=self._record, kept=self._host.consoles)

    @property
    def screen(self) -> Screen:
        """Its screen and its keyboard."""
        from vmctl.screen import Screen

        return Screen(self._domain, record=self._record, reach=self._host.reach)

    def info(self) -> info.MachineInfo:
        """Return all that is known of it."""
        from vmctl import info

        record = self._domain.record()
        return info.describe(
            self._domain,
            record,
            reach=self._host.reach,
            next_snapshot=("", "") if record is None else self.snapshots.outlook(),
        )

    def addresses(self) -> Sequence[AddressReport]:
        """Return what each source says of its addresses, NIC by NIC, and why it says nothing."""
        from vmctl.networking.discovery import report_addresses

        return report_addresses(self._domain, self._domain.record(), reach=self._host.reach)

    def audit(self) -> Audit:
        """Return what isolates it, line by line, and what doesn't; it may be anybody's machine.

        Raises:
            NotFoundError: It is gone.
        """
        from vmctl.audit import audit

        return audit(self._domain, self._host.facts)

    def stats(self, *, since: MachineStats | None = None, interval: float = 0.0) -> MachineStats:
        """Measure what it uses.

        Args:
            since: The measurement before, from which rates and percentages are worked out.
            interval: Seconds over which to measure rates now, instead of ``since``.

        Raises:
            NotFoundError: It is gone.
        """
        from vmctl.hypervisor.figures import figures_of
        from vmctl.stats import measure

        before = () if since is None else (since,)
        (found,) = measure(lambda: [figures_of(self._domain)], since=before, interval=interval)
        return found

    def events(
        self,
        *,
        kinds: Iterable[EventKind | str] = (),
        timeout: float | None = None,
        capacity: int = 1000,
    ) -> EventStream:
        """Return what happens to it from now on, as `Host.events` does.

        When the machine is gone, the iteration ends with a NotFoundError, after its last event.
        """
        from vmctl.events import EventStream

        return EventStream(
            self._domain.connection,
            (self.uuid,),
            domain=self._domain,
            kinds=kinds,
            timeout=timeout,
            capacity=capacity,
        )

    def xml(self, *, inactive: bool = False) -> str:
        """Return its libvirt XML, the live one or the one for its next start."""
        return self._domain.xml(inactive=inactive)

    # -- all of it ---------------------------------------------------------------------------------

    def delete(self, *, progress: ProgressCallback | None = None) -> None:
        """Remove it with its volumes, NVRAM, snapshots and seed. A running one is ended at once.

        Args:
            progress: Told of the one phase, ``delete``.

        Raises:
            ConflictError: vmctl did not make it, it is being exported or changed, or a linked clone
                lies on its disks; or its snapshots froze a volume that it was given, so that what
                it wrote there since would go.
            WrongStateError: Its QEMU is there, and libvirt has lost it.
            RollbackError: Something could not be removed; `Host.gc` goes on with it later.
        """
        from vmctl.changes import refuse_while_changed
        from vmctl.hypervisor.exports import refuse_while_exported
        from vmctl.hypervisor.lost import refuse_lost
        from vmctl.removal import refuse_lain_on, refuse_unmerged, remove_machine

        record = self._record()
        refuse_while_exported(self.name, record)
        refuse_while_changed(self._domain, record)
        if record.phase is Phase.MERGING:
            # Nobody would end it any more.
            refuse_lost(self._domain)
        refuse_lain_on(self._domain, record)
        refuse_unmerged(self._domain, record)
        self._forget_connection()
        with Reporter(self.name, progress).phase("delete"):
            remove_machine(self._domain, record)

    def flatten(
        self, disk: str | None = None, *, progress: ProgressCallback | None = None
    ) -> tuple[str, ...]:
        """Make its linked disks stand alone: all that lies underneath is copied into them.

        It is done in place, while the guest runs or while it is off. When it is interrupted, the
        disks are whole and still linked, and it can be done again.

        Args:
            disk: The one disk to flatten, by its target: ``vda``. None for all of them.
            progress: Told of the one phase, ``flatten``.

        Returns:
            The targets that were flattened; none when nothing lies underneath.

        Raises:
            ConflictError: vmctl did not make it, it has snapshots, or somebody is at work on it.
            NotFoundError: It has no such disk.
            ResourceError: The pool has no room for what lies underneath.
            WrongStateError: The machine went off in the middle.
        """
        from vmctl import flatten

        return flatten.flatten(self._domain, self._record(), disk, progress=progress)

    def export(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        format: str = "qcow2",  # noqa: A002 - the command's own word
        replace: bool = False,
        progress: ProgressCallback | None = None,
    ) -> tuple[str, ...]:
        """Write it to a file; it must be off, and stay so. Snapshots are not in it.

        Args:
            target: The file, which appears when it is whole. With several disks, ``qcow2``,
                ``raw`` and ``vmdk`` make a folder with a file for each. A bundle can also be
                written to an open file, a pipe say.
            format: ``qcow2``, ``raw``, ``vmdk``, ``ova`` or ``bundle``.
            replace: Whether a file that is there is replaced.
            progress: Told of the one phase, ``export``.

        Returns:
            One sentence for each thing that one could look for in the file, and that is not there.

        Raises:
            ConflictError: vmctl did not make it, there is such a file, somebody else exports it, or
                it was started or its disks were changed meanwhile.
            WrongStateError: It is not off.
            UnsupportedError: A disk of it is a server's, or there is no qemu-img here.
            ResourceError: There is no room on this machine.
        """
        from vmctl.transfer import exporting

        record = self._record()
        try:
            form = exporting.ExportFormat(format)
        except ValueError:
            raise UsageError(
                f"there is no export to {format!r}",
                hint=f"one of: {', '.join(exporting.ExportFormat)}",
            ) from None
        place = Path(target) if isinstance(target, str | os.PathLike) else target
        return exporting.export(
            self._domain, record, place, form, replace=replace, progress=progress
        )

    # -- change -----------------------------------------------------------------------------------

    def _intent(self, progress: ProgressCallback | None = None) -> Intent:
        from vmctl.intent.asking import Intent
        from vmctl.intent.by_verb import Verbs

        verbs = Verbs(
            domain=self._domain,
            pool=self._host.pool,
            facts=self._host.facts,
            templates=self._host.templates,
            progress=progress,
        )
        return Intent(self._domain, record=self._record, verbs=verbs)

    def compare(self, spec: VMSpec | Mapping[str, Any]) -> ChangePlan:
        """Return what differs between it and a spec, and when each difference can be made.

        Nothing is changed. What others changed (``drift``), and what waits for its next start
        already (``pending``), is told as well.

        Args:
            spec: All that it shall be, or only other values by path, as for `with_values`. A
                secret can't be compared: vmctl does not keep any.

        Raises:
            ConflictError: vmctl did not make it.
            SpecError: It can't be told which of its devices the spec speaks of.
            UnsupportedError: The host can't do what the spec asks for.
        """
        return self._intent().compare(spec)

    def apply(
        self,
        spec: VMSpec | Mapping[str, Any],
        *,
        plan: ChangePlan | None = None,
        live_only: bool = False,
        skip_anew: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Applied:
        """Make it what a spec says; a second time changes nothing.

        What others changed, and what vmctl does not manage, stays as it is. A disk that the spec
        lacks is detached; its volume stays.

        Args:
            spec: All that it shall be; or only other values by path, as for `with_values`: what
                somebody else changes at the same time stays then.
            plan: What `compare` said and somebody accepted: nothing else is done.
            live_only: Whether what would wait for its next start is left out.
            skip_anew: Whether what only a new machine could have is left out.
            progress: Told of the phase ``change``, and of those of the devices' verbs.

        Raises:
            ConflictError: vmctl did not make it; or something needs a new machine, or it differs
                otherwise than ``plan`` says, and nothing was changed.
            SpecError: It can't be told which of its devices the spec speaks of.
            UnsupportedError: The host can't do what the spec asks for.
            VmctlError: A change failed; ``details`` say which were made, and all of those are
                recorded.
        """
        return self._intent(progress).apply(
            spec, shown=plan, live_only=live_only, skip_anew=skip_anew, progress=progress
        )

    def with_values(self, values: Mapping[str, Any]) -> VMSpec:
        """Return its spec with other values, for `apply`; secrets are missing in it.

        Args:
            values: By path: ``{"memory": "4GiB", "disks.vdb.size": "20GiB"}``. None takes a device
                away.

        Raises:
            UsageError: There is no such device, or that is no path.
            SpecError: The spec is not valid with them.
        """
        return self._intent().with_values(values)

    def set_vcpus(
        self, count: int, *, next_start: bool = False, timeout: float = 30.0
    ) -> processors.Processors:
        """Give it another number of processors: while it runs, and at its next start.

        See `vmctl.devices.processors.set_vcpus` for what it raises.
        """
        from vmctl.devices import processors

        return processors.set_vcpus(self._domain, count, next_start=next_start, timeout=timeout)

    def set_memory(
        self,
        size: int | str,
        *,
        model: memory.MemoryModel | None = None,
        next_start: bool = False,
        timeout: float = 60.0,
    ) -> memory.Memory:
        """Give it another size of memory, bytes or text with a unit: now, and at its next start.

        See `vmctl.devices.memory.set_memory` for the arguments, and for what it raises.
        """
        from vmctl.devices import memory

        return memory.set_memory(
            self._domain,
            size,
            facts=self._host.facts,
            model=model,
            templates=self._host.templates,
            next_start=next_start,
            timeout=timeout,
        )

    # -- the guest --------------------------------------------------------------------------------

    def wait(
        self, *, deadlines: Deadlines | None = None, progress: ProgressCallback | None = None
    ) -> None:
        """Wait until the guest is ready, as `Host.launch` does.

        Args:
            deadlines: How long each phase may take.
            progress: Told of every phase.

        Raises:
            WrongStateError: It is off.
            WaitTimeoutError: A phase did not end in time.
            ProvisioningError: cloud-init failed.
        """
        from vmctl.guest import readiness
        from vmctl.launch import finish

        record = self._record()
        self._refuse_crashed(self._active_state("become ready"), "become ready")
        self._adopt(record)
        session = readiness.wait_until_ready(
            self._domain,
            record,
            reach=self._host.reach,
            key=self._host.key if record.host_key else None,
            deadlines=deadlines or readiness.Deadlines(),
            progress=progress,
        )
        if session is not None:
            self._host.sessions.keep(self.uuid, session)
        if record.phase is Phase.PROVISIONING:
            finish(self._domain)

    def console_log(self, *, older: bool = False) -> str:
        """Return what the guest wrote to its serial console, without control sequences.

        Args:
            older: Whether the older parts of a long log are in it too, as far as they are kept.

        Raises:
            NotFoundError: It keeps no console log.
        """
        from vmctl.guest import console

        return console.console_log(self._domain.connection, self._record(), older=older)
