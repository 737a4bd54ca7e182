"""How much memory a machine has, changed while it runs and for its next start.

Below what it started with, the balloon takes memory from the guest and gives it back. Above that,
up to ``max_memory`` of its spec, memory is plugged in: one virtio-mem device, of which the guest
uses as much as it is told, or a DIMM for guests without its driver, which stays until it is off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lxml import etree

from vmctl.changes import carry_out, changing
from vmctl.devices.machine import not_live, port_problem, recorded, spec_of
from vmctl.errors import ConflictError, ResourceError, UsageError, VmctlError, WaitTimeoutError
from vmctl.hypervisor import hotplug, tuning
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.hotplug import Scope
from vmctl.hypervisor.metadata import Pending
from vmctl.hypervisor.tuning import MemoryUse
from vmctl.progress import being_undone
from vmctl.render.attached import MemoryDevice, render_memory
from vmctl.render.facts import HostFacts
from vmctl.render.templates import Templates
from vmctl.spec.sizes import Size

__all__ = [
    "Memory",
    "MemoryModel",
    "memory_of",
    "refuse_more_than_host",
    "set_memory",
    "why_not_live",
]

MemoryModel = Literal["virtio-mem", "dimm"]

_GUEST_SECONDS = 60.0
_REPORT_SECONDS = 10.0
_BLOCK = 2 << 20
# What a Linux guest takes memory in; a DIMM that is no multiple of it is of no use to it.
_DIMM_STEP = 128 << 20
# A guest that has given nothing back for so long has what is left in use.
_STUCK_SECONDS = 10.0
# What a guest needs above what it uses just now.
_RESERVE = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory of a machine, in bytes.

    Attributes:
        now: What the running machine has; 0 for one that is off.
        later: What it has at its next start.
        maximum: What it can have while it runs.
        plugged: What of ``now`` was plugged in since it was started.
    """

    now: int
    later: int
    maximum: int
    plugged: int = 0


@dataclass(frozen=True, kw_only=True)
class _State:
    """The running machine: what it started with and its DIMMs, and its virtio-mem device."""

    base: int
    ballooned: int
    dimms: int
    maximum: int
    device: etree._Element | None

    @property
    def size(self) -> int:
        return _kib(self.device, "target/size")

    @property
    def requested(self) -> int:
        return _kib(self.device, "target/requested")

    @property
    def given(self) -> int:
        return _kib(self.device, "target/current")

    @property
    def total(self) -> int:
        return self.ballooned + self.given


def _kib(node: etree._Element | None, path: str) -> int:
    return 0 if node is None else int(node.findtext(path) or 0) << 10


def _read(domain: Domain) -> _State:
    root = hotplug.definition(domain, later=False)
    nodes = hotplug.device_nodes(root, "memory")
    device = next((node for node in nodes if node.get("model") == "virtio-mem"), None)
    dimms = sum(_kib(node, "target/size") for node in nodes if node.get("model") == "dimm")
    base = _kib(root, "memory") - _kib(device, "target/size")
    return _State(
        base=base,
        ballooned=tuning.memory_use(domain).actual or base,
        dimms=dimms,
        maximum=_kib(root, "maxMemory") or base,
        device=device,
    )


def _told_of(domain: Domain) -> int:
    """Return what libvirt says that the balloon leaves of what the machine started with."""
    root = hotplug.definition(domain, later=False)
    given = sum(_kib(node, "target/current") for node in hotplug.device_nodes(root, "memory"))
    return _kib(root, "currentMemory") - given


def memory_of(domain: Domain) -> Memory:
    """Return how much memory the machine has."""
    root = hotplug.definition(domain, later=True)
    later = _kib(root, "currentMemory")
    if not domain.is_active():
        return Memory(now=0, later=later, maximum=_kib(root, "maxMemory") or _kib(root, "memory"))
    state = _read(domain)
    plugged = state.dimms + state.given
    return Memory(now=state.total, later=later, maximum=state.maximum, plugged=plugged)


def why_not_live(domain: Domain, size: int) -> str | None:
    """Return why the running machine can't have so much memory; None if it can.

    Whether the guest can do with less is seen when it is asked.
    """
    state = _read(domain)
    root = hotplug.definition(domain, later=False)
    if domain.state() is State.PAUSED:
        return f"'{domain.name}' is paused: its guest can't take memory, or give it back"
    if size > state.maximum:
        return (
            f"'{domain.name}' can have {Size(state.maximum)} of memory at most while it runs, "
            f"not {Size(size)}"
        )
    if size > state.base and state.device is None:
        return port_problem(domain.name, root)
    balloon = root.find("devices/memballoon")
    if size < state.base and (balloon is None or balloon.get("model") == "none"):
        return f"'{domain.name}' has no memory balloon to take memory from its guest by"
    return None


def set_memory(
    domain: Domain,
    size: int | str,
    *,
    facts: HostFacts,
    model: MemoryModel | None = None,
    templates: Templates | None = None,
    next_start: bool = False,
    timeout: float = _GUEST_SECONDS,
) -> Memory:
    """Give a machine another size of memory: while it runs, and at its next start.

    Args:
        domain: The machine.
        size: How much: bytes, or text with a unit.
        facts: What the host can do.
        model: What is plugged in where that is needed: ``virtio-mem``, or ``dimm`` for a guest
            without its driver; None chooses virtio-mem where the host has it.
        templates: Templates to use instead of the default ones.
        next_start: Whether a running machine keeps what it has until then.
        timeout: Seconds that the guest has to take it, or to give it back.

    Raises:
        SpecError: It is more than ``max_memory``, or too little.
        ResourceError: It is more than the host has.
        ConflictError: The guest uses more than that, or somebody else is at work on the machine.
        UnsupportedError: The running machine can't have it before its next start.
        WaitTimeoutError: The guest did not do its part; the machine has what it had.
    """
    size = _size(size)
    refuse_more_than_host(domain.name, size, facts)
    with changing(domain) as record:
        changed = spec_of(record).replace(memory=Size(size))
        scope = hotplug.scope_of(domain, next_start=next_start)
        if scope.now:
            problem = why_not_live(domain, size)
            if problem is not None:
                raise not_live(problem)

        def act() -> None:
            if scope.now:
                chosen = model or ("virtio-mem" if "virtio-mem" in facts.features else "dimm")
                _Change(domain, templates, timeout).to(size, chosen)
            _change_later(domain, size)

        proof = f"memory='{size >> 10}' and currentMemory='{size >> 10}'"
        carry_out(domain, Pending.of_value(recorded(changed, record), proof), act)
    return memory_of(domain)


def refuse_more_than_host(name: str, size: int, facts: HostFacts) -> None:
    """Refuse more memory than there is.

    Raises:
        ResourceError: The host has less.
    """
    if facts.memory and size > facts.memory:
        raise ResourceError(
            f"'{name}' would have {size >> 20} MiB of memory, and the host has "
            f"{facts.memory >> 20} MiB in all",
            hint="give it less, or use a larger host",
        )


def _size(size: int | str) -> int:
    try:
        return int(Size(size))
    except ValueError as error:
        raise UsageError(str(error), hint="write it like 2GiB") from error


def _change_later(domain: Domain, size: int) -> None:
    def change(root: etree._Element) -> etree._Element:
        for path in ("memory", "currentMemory"):
            for node in root.findall(path):
                node.set("unit", "KiB")
                node.text = str(size >> 10)
        for cell in root.findall("cpu/numa/cell"):
            cell.set("unit", "KiB")
            cell.set("memory", str(size >> 10))
        return root

    hotplug.redefine(domain, change)


class _Change:
    """Changes the memory of one running machine, or leaves it as it was."""

    def __init__(self, domain: Domain, templates: Templates | None, timeout: float) -> None:
        self._domain = domain
        self._templates = templates
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout

    def to(self, size: int, model: MemoryModel) -> None:
        before = _read(self._domain)
        if size < before.total:
            self._refuse_too_little(size, before)
        extra = max(0, size - before.base)
        try:
            if size < before.total or not extra:
                # Some of it may hold what the guest's kernel can't move: then the balloon takes as
                # much of the rest.
                given = self._shrink(before, extra)
                if given >= size:
                    self._gave_up(given, extra, "its virtio-mem driver")
                self._inflate(min(before.base, size - given))
                return
            self._inflate(before.base)
            if before.device is not None:
                self._request(before, -(-extra // _BLOCK) * _BLOCK)
            elif model == "dimm":
                self._plug_dimm(extra)
            else:
                self._plug(before, extra)
        except VmctlError:
            with being_undone():
                self._restore(before)
            raise

    def _refuse_too_little(self, size: int, before: _State) -> None:
        """Refuse less than the guest uses, as its balloon driver reports it.

        Raises:
            ConflictError: It uses more.
        """
        use = self._fresh_use()
        if use is None or use.usable is None:
            raise not_live(
                f"the guest of '{self._domain.name}' does not report what it uses, so no memory "
                "can be taken from it while it runs"
            )
        needed = before.total - use.usable + _RESERVE
        if size < needed:
            raise ConflictError(
                f"the guest of '{self._domain.name}' uses {(needed - _RESERVE) >> 20} MiB, and "
                f"can't do with {size >> 20} MiB",
                hint=f"leave it at least {-(-needed >> 20)} MiB, or end something in it",
            )

    def _fresh_use(self) -> MemoryUse | None:
        """Return a report that was asked for just now; drivers report only when they are asked."""
        domain = self._domain
        balloon = hotplug.definition(domain, later=False).find("devices/memballoon/stats")
        period = 0 if balloon is None else int(balloon.get("period", "0"))
        last = tuning.memory_use(domain).updated
        tuning.set_stats_period(domain, 1)
        try:
            return self._until(
                lambda: use if (use := tuning.memory_use(domain)).updated > last else None,
                time.monotonic() + _REPORT_SECONDS,
            )
        finally:
            tuning.set_stats_period(domain, period)

    def _until(self, look: Callable[[], MemoryUse | None], deadline: float) -> MemoryUse | None:
        with self._domain.connection.events.listening(self._domain.uuid) as signal:
            return signal.wait_for(look, deadline=deadline, recheck=0.3)

    def _inflate(self, size: int) -> None:
        """Leave the guest with so much of what it started with, and wait until that is so."""
        domain = self._domain
        if tuning.memory_use(domain).actual == size:
            return
        tuning.set_balloon(domain, size)

        def reached() -> MemoryUse | None:
            use = tuning.memory_use(domain)
            # libvirt hears of it by an event, which QEMU sends at most once in a second.
            return use if use.actual == size and _told_of(domain) == size else None

        if self._until(reached, self._deadline) is None:
            self._gave_up(tuning.memory_use(domain).actual, size, "its balloon driver")

    def _gave_up(self, got: int, wanted: int, who: str) -> None:
        raise WaitTimeoutError(
            f"the guest of '{self._domain.name}' has {got >> 20} MiB of {wanted >> 20} MiB after "
            f"{self._timeout:g} s",
            phase="memory",
            details=f"what has to do it in the guest: {who}",
            hint="it has again what it had; without that driver it can change at the next start "
            "only",
        )

    def _request(self, state: _State, extra: int) -> None:
        """Have the guest use so much of the device, and wait until it does."""
        if state.device is None or (state.requested == extra == state.given):
            return
        if extra > state.size:
            raise UsageError(
                f"'{self._domain.name}' can have {Size(state.base + state.size)} at most while it "
                "runs",
                hint="give it more at its next start: next_start=True",
            )
        self._ask(state.device, extra)

        def reached() -> MemoryUse | None:
            given = _read(self._domain).given == extra
            return tuning.memory_use(self._domain) if given else None

        if self._until(reached, self._deadline) is None:
            self._gave_up(_read(self._domain).given, extra, "its virtio-mem driver")

    def _shrink(self, state: _State, extra: int) -> int:
        """Have the guest use no more of the device than that; returns what it still uses."""
        if state.device is None or state.given <= extra:
            return state.given
        self._ask(state.device, -(-extra // _BLOCK) * _BLOCK)
        given, since = state.given, time.monotonic()

        def settled() -> MemoryUse | None:
            nonlocal given, since
            now = _read(self._domain).given
            if now != given:
                given, since = now, time.monotonic()
            stuck = time.monotonic() - since > _STUCK_SECONDS
            return tuning.memory_use(self._domain) if stuck or given <= extra else None

        self._until(settled, self._deadline)
        return given

    def _ask(self, device: etree._Element, extra: int) -> None:
        for node in device.findall("target/requested"):
            node.set("unit", "KiB")
            node.text = str(extra >> 10)
        for node in device.findall("target/current"):
            node.getparent().remove(node)  # type: ignore[union-attr]  # it was found under one
        tuning.set_requested(self._domain, etree.tostring(device, encoding="unicode"))

    def _plug(self, state: _State, extra: int) -> None:
        room = (state.maximum - state.base) // _BLOCK * _BLOCK
        self._attach(MemoryDevice(model="virtio-mem", size_kib=room >> 10))
        self._request(_read(self._domain), min(-(-extra // _BLOCK) * _BLOCK, room))

    def _plug_dimm(self, extra: int) -> None:
        if extra % _DIMM_STEP:
            raise UsageError(
                f"memory is plugged in as DIMMs of whole {_DIMM_STEP >> 20} MiB, and "
                f"{extra >> 10} KiB are missing",
                hint=f"add a multiple of {Size(_DIMM_STEP)} to what it has",
            )
        self._attach(MemoryDevice(model="dimm", size_kib=extra >> 10))

    def _attach(self, device: MemoryDevice) -> None:
        xml = render_memory(device, templates=self._templates)
        hotplug.attach(self._domain, xml, Scope(now=True, later=False), what=f"a {device.model}")

    def _restore(self, before: _State) -> None:
        """Ask for what it had; the guest gets there in its own time."""
        now = _read(self._domain)
        if now.device is not None and now.requested != before.requested:
            self._ask(now.device, before.requested)
        if now.ballooned != before.ballooned:
            tuning.set_balloon(self._domain, before.ballooned)
