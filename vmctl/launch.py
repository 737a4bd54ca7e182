"""The transaction that turns a spec into a ready guest.

The name is reserved by defining the domain, whose metadata lists what is going to be made. Then it
is made, started and waited for. Whatever fails, all of it is undone; what a killed client left,
`gc` finds by the same list.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vmctl import bases, group_members, nic_filters, power
from vmctl.errors import ConflictError, NotFoundError, RollbackError, VmctlError
from vmctl.guest.identity import KeyPair
from vmctl.guest.reach import Reach
from vmctl.guest.readiness import Deadlines, wait_until_ready
from vmctl.guest.ssh import SSHSession
from vmctl.hypervisor import hotplug, names, networks
from vmctl.hypervisor.claims import Claim, claimed
from vmctl.hypervisor.connection import Connection, outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.image_names import ImageName
from vmctl.hypervisor.metadata import Phase, Record, Role
from vmctl.hypervisor.pools import Pool
from vmctl.hypervisor.seeds import eject_seed
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.imaging.inspection import Image
from vmctl.networking import reserving
from vmctl.plan import Imported, NewVolume, Plan, make_plan
from vmctl.progress import Phase as ReportedPhase
from vmctl.progress import ProgressCallback, Reporter, being_undone
from vmctl.removal import remove_machine
from vmctl.render.facts import HostFacts
from vmctl.render.first_boot import has_first_boot, without_first_boot
from vmctl.render.templates import Templates
from vmctl.render.volume import render_volume
from vmctl.spec import VMSpec

__all__ = ["Launched", "Surroundings", "create", "finish", "launch"]

# Besides the waiting: uploading an image to a far host may take its time.
_MAKING_SECONDS = 7200.0
# The longest that a removal by somebody else is waited for.
_REMOVAL_SECONDS = 120.0
# What a launch brought or started stays from here on, whatever becomes of the machine.
_LAUNCH_IS_OVER: dict[str, Any] = {"brought": (), "started_networks": ()}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a launch happens in.

    Attributes:
        connection: The host.
        facts: What it can do.
        pool: The pool for new volumes.
        reach: How its guests are reached.
        key: The client's key.
        templates: Where the documents come from; None for the default chain.
    """

    connection: Connection
    facts: HostFacts
    pool: str
    reach: Reach
    key: KeyPair
    templates: Templates | None = None


@dataclass(frozen=True)
class Launched:
    """A machine that was made, and the connection to its guest where there is one."""

    domain: Domain
    session: SSHSession | None


def launch(
    spec: VMSpec,
    around: Surroundings,
    *,
    deadlines: Deadlines,
    progress: ProgressCallback | None,
    wait: bool,
    keep: bool,
) -> Launched:
    """Make, start and await a machine.

    Args:
        spec: What is wanted.
        around: Where.
        deadlines: How long each phase may take.
        progress: Told of every phase.
        wait: Whether to wait for the guest; without it, the machine is as `create` leaves it, but
            running.
        keep: Whether a machine whose guest did not become ready is left as it is.
    """

    def bring_up(domain: Domain, record: Record) -> SSHSession | None:
        with Reporter(spec.name, progress).phase("start"):
            power.start(domain, record.spec)
        if not wait:
            return None
        domain.update_record(phase=Phase.PROVISIONING)
        return wait_until_ready(
            domain,
            record,
            reach=around.reach,
            key=around.key,
            deadlines=deadlines,
            progress=progress,
        )

    if wait:
        around.reach.check()
    transaction = _Transaction(spec, around, progress, seconds=deadlines.total, keep=keep)
    return transaction.run(bring_up, last_phase=Phase.READY if wait else Phase.PROVISIONING)


def create(
    spec: VMSpec,
    around: Surroundings,
    *,
    progress: ProgressCallback | None,
    imported: Imported | None = None,
) -> Launched:
    """Make a machine without starting it.

    Args:
        spec: What is wanted.
        around: Where.
        progress: Told of every phase.
        imported: What it brings that lived elsewhere before; it has nothing left to provision.
    """
    transaction = _Transaction(spec, around, progress, seconds=0.0, keep=False, imported=imported)
    return transaction.run(None, last_phase=Phase.PROVISIONING if imported is None else Phase.READY)


def finish(domain: Domain) -> None:
    """Record that a machine is ready, and take its seed away: the secrets in it are used up.

    The seed leaves the drive, then the pool, then the record, so that wherever this is interrupted
    the record still lists what is left.
    """
    # As it is now: others may have changed it while the guest was waited for.
    record = domain.record()
    seed = None if record is None else record.volume(Role.SEED)
    if seed is not None:
        eject_seed(domain, seed)
        _forget_first_boot(domain)
    left = () if record is None else tuple(entry for entry in record.volumes if entry is not seed)
    domain.update_record(phase=Phase.READY, claim=None, volumes=left, **_LAUNCH_IS_OVER)


def _forget_first_boot(domain: Domain) -> None:
    """Take out of a clone's definition what its guest was told for one boot."""
    if has_first_boot(hotplug.definition(domain, later=True)):
        hotplug.redefine(domain, without_first_boot)


class _Transaction:
    def __init__(
        self,
        spec: VMSpec,
        around: Surroundings,
        progress: ProgressCallback | None,
        *,
        seconds: float,
        keep: bool,
        imported: Imported | None = None,
    ) -> None:
        self._imported = imported
        self._around = around
        self._reporter = Reporter(spec.name, progress)
        self._seconds = seconds
        self._keep = keep
        self._spec = spec
        self._brought: tuple[tuple[str, str], ...] = ()
        self._started: tuple[str, ...] = ()
        self._foreign: set[str] = set()
        self._whole = False

    def run(
        self,
        bring_up: Callable[[Domain, Record], SSHSession | None] | None,
        *,
        last_phase: Phase,
    ) -> Launched:
        self._refuse_taken_name()
        plan = make_plan(
            self._spec,
            connection=self._around.connection,
            facts=self._around.facts,
            pool_name=self._around.pool,
            key=self._around.key,
            reporter=self._reporter,
            templates=self._around.templates,
            imported=self._imported,
        )
        with claimed(_MAKING_SECONDS + self._seconds) as claim:
            return self._carry_out(plan, claim, bring_up, last_phase)

    def _carry_out(
        self,
        plan: Plan,
        claim: Claim,
        bring_up: Callable[[Domain, Record], SSHSession | None] | None,
        last_phase: Phase,
    ) -> Launched:
        record = replace(plan.record, claim=claim)
        domain = Domain(self._around.connection, plan.uuid, plan.spec.name)
        try:
            self._reserve(plan, record)
            reserving.reserve(domain, plan.spec, plan.addresses)
            nic_filters.keep_to_reserved(domain, plan.spec, self._around.templates)
            self._join_groups(record)
            self._make_volumes(plan, domain)
            self._let_go_of_copied(plan, domain)
            if plan.spec.autostart:
                domain.set_autostart(on=True)
            self._whole = True
            session = None
            if bring_up is not None:
                self._start_networks(domain)
                session = bring_up(domain, record)
                # Its addresses may be known only now.
                self._join_groups(record)
            if last_phase is Phase.READY:
                outlasting(lambda: finish(domain))
            else:
                domain.update_record(phase=last_phase, claim=None, **_LAUNCH_IS_OVER)
        except BaseException as error:
            # Before anything is told of it: a signal that comes now must not end the undoing.
            with being_undone():
                self._undo(domain, record, error)
            raise
        return Launched(domain, session)

    def _refuse_taken_name(self) -> None:
        """Say that a name is taken before any work is done for it; defining it decides."""
        try:
            names.find(self._around.connection, self._spec.name)
        except NotFoundError:
            return
        raise names.name_is_taken(self._spec.name)

    def _reserve(self, plan: Plan, record: Record) -> None:
        with self._reporter.phase("define"):
            names.define(
                self._around.connection,
                plan.xml(record=record, templates=self._around.templates),
                name=plan.spec.name,
                uuid=plan.uuid,
            )
            # Once a definition refers to them, nobody removes them.
            nic_filters.ensure(self._around.connection, plan.spec.nics, self._around.templates)

    def _join_groups(self, record: Record) -> None:
        group_members.refresh(self._around.connection, group_members.groups_of(record.spec))

    def _make_volumes(self, plan: Plan, domain: Domain) -> None:
        with self._reporter.phase("disks") as phase:
            for volume in plan.volumes:
                if volume.base is not None:
                    self._make_clone(plan, domain, volume, volume.base, phase)
                else:
                    self._create(plan, volume)
            # Last: after each upload libvirt looks through every volume of the pool, and whoever
            # asks for the pool waits until then (virStorageVolPoolRefreshThread).
            for volume in plan.volumes:
                _fill(plan, volume, phase)

    def _let_go_of_copied(self, plan: Plan, domain: Domain) -> None:
        """Take the images out of the record that its disks are full copies of."""
        linked = {
            (plan.pool.name, bases.base_name(volume.base))
            for volume in plan.volumes
            if volume.base is not None and not volume.full
        }
        kept = tuple(base for base in plan.record.bases if base in linked)
        if kept != plan.record.bases:
            domain.update_record(bases=kept)

    def _start_networks(self, domain: Domain) -> None:
        for name in domain.networks():
            if not networks.is_active(domain.connection, name):
                self._started = (*self._started, name)
                domain.update_record(started_networks=self._started)
                networks.ensure_active(domain.connection, name)

    def _create(self, plan: Plan, volume: NewVolume, base: StoredVolume | None = None) -> None:
        made = StoredVolume.of(plan.pool, volume.owned.name)
        xml = render_volume(
            made.name,
            capacity=volume.capacity,
            format=volume.format,
            backing_path=None if base is None or volume.full else base.path(),
        )
        try:
            if base is not None and volume.full:
                bases.copy_volume(base, made, xml, volume.capacity)
            else:
                made.create(xml)
        except ConflictError:
            # Whoever's it is, it is not this machine's, so undoing must not remove it.
            self._foreign.add(made.name)
            raise

    def _make_clone(
        self,
        plan: Plan,
        domain: Domain,
        volume: NewVolume,
        image: Image | ImageName,
        phase: ReportedPhase,
    ) -> None:
        key = (plan.pool.name, bases.base_name(image))

        def note_brought(brought: bool) -> None:
            rest = tuple(entry for entry in self._brought if entry != key)
            self._brought = (*rest, key) if brought else rest
            domain.update_record(brought=self._brought)

        for last in (False, False, True):
            self._await_removal(plan.pool, key[1], phase)
            base = bases.ensure_in_pool(plan.pool, image, phase=phase, note_brought=note_brought)
            try:
                self._create(plan, volume, base)
            except VmctlError:
                # Its uploader may have given up on its own launch, and taken the image with it.
                if last or base.exists():
                    raise
            else:
                return

    def _await_removal(self, pool: Pool, volume: str, phase: ReportedPhase) -> None:
        """Wait while somebody is removing the image, with a machine that brought it or alone."""

        def gone() -> bool | None:
            if not bases.is_being_removed(pool, volume):
                return True
            phase.update("somebody else is removing it")
            return None

        if Signal().wait_for(gone, deadline=time.monotonic() + _REMOVAL_SECONDS) is None:
            raise ConflictError(
                f"the image '{volume}' in the pool '{pool.name}' is being removed",
                hint="wait until that has ended, and launch again",
            )

    def _undo(self, domain: Domain, record: Record, error: BaseException) -> None:
        if isinstance(error, ConflictError) and not outlasting(domain.exists):
            # The name was somebody else's: nothing was made.
            return
        if self._keep and self._whole and isinstance(error, VmctlError):
            kept: dict[str, Any] = {"phase": Phase.PROVISIONING, "claim": None, **_LAUNCH_IS_OVER}
            outlasting(lambda: domain.update_record(**kept))
            return
        # What was made goes, whatever becomes of the one who is told of it.
        with self._reporter.phase("undo", must_run=True):
            try:
                own = tuple(entry for entry in record.volumes if entry.name not in self._foreign)
                made = replace(
                    record, volumes=own, brought=self._brought, started_networks=self._started
                )
                outlasting(lambda: remove_machine(domain, made))
            except VmctlError as failure:
                left = failure.left if isinstance(failure, RollbackError) else ()
                raise RollbackError(
                    f"the launch of '{domain.name}' failed, and not all of it could be undone",
                    left=left,
                    details=f"it failed because: {error}\nthe undoing failed because: {failure}",
                    hint="mend the cause, then `vmctl gc` removes what is left",
                ) from error


def _fill(plan: Plan, volume: NewVolume, phase: ReportedPhase) -> None:
    content = volume.content
    if content is None:
        return
    made = StoredVolume.of(plan.pool, volume.owned.name)
    if isinstance(content, bytes):
        made.write(content)
        return
    done = 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        phase.update("uploading", done / volume.capacity)

    with content.open("rb") as file:
        made.upload(file.fileno(), start=0, length=volume.capacity, sent=sent)
