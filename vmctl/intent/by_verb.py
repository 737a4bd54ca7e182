"""Differences that a device's own verb makes, with the volumes that come and go with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lxml import etree

from vmctl.devices import disks, media, memory, nics, ports, processors
from vmctl.devices.machine import no_port
from vmctl.devices.nic_filtering import filter_nic
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.domains import Domain
from vmctl.intent.differences import Action, Difference
from vmctl.intent.rules import When
from vmctl.progress import ProgressCallback
from vmctl.render.facts import HostFacts
from vmctl.render.templates import Templates
from vmctl.spec import BandwidthSpec, DiskBus, DiskSpec, IoTuneSpec, NicSpec
from vmctl.spec.nic import ForwardSpec
from vmctl.spec.sizes import Size

__all__ = ["Verbs", "is_by_verb"]

_FILTERS = ("security_groups", "antispoofing")
_FIELDS = (
    ".size",
    ".iotune",
    ".link",
    ".bandwidth",
    ".forwards",
    ".medium",
    *(f".{name}" for name in _FILTERS),
)


def is_by_verb(difference: Difference) -> bool:
    """Return whether a verb makes a difference, be the machine running or not."""
    path = difference.path
    if path in {"vcpus", "memory"}:
        return True
    if difference.action is Action.CHANGE:
        return path.startswith(("disks.", "nics.", "cdroms.")) and path.endswith(_FIELDS)
    return path.startswith(("disks.", "nics."))


def _ports(difference: Difference, root: etree._Element) -> int:
    """Return how many ports a difference takes in the running machine, or gives back (below 0)."""
    if difference.path == "memory":
        plugged = hotplug.device_nodes(root, "memory")
        base = int(root.findtext("memory") or 0) << 10
        return int(not plugged and Size(difference.after) > base)
    if difference.action is Action.CHANGE:
        return 0
    added = difference.action is Action.ADD
    kind = difference.path.partition(".")[0]
    device = difference.after if added else difference.before
    takes = kind == "nics" or (kind == "disks" and device["bus"] == DiskBus.VIRTIO)
    return (1 if added else -1) if takes else 0


@dataclass(frozen=True, kw_only=True)
class Verbs:
    """The verbs of one machine's devices.

    Attributes:
        domain: The machine.
        pool: The pool for new volumes.
        facts: What the host can do.
        templates: Where its XML is rendered from.
        progress: Told what the verbs do.
    """

    domain: Domain
    pool: str
    facts: HostFacts
    templates: Templates | None
    progress: ProgressCallback | None = None

    def looking(self, running: str | None) -> Callable[[Difference], str | None]:
        """Return `why_not_live` for the differences of one plan, in the order they are made in.

        Each is asked about as if those before it were made: they take ports, and give them back.

        Args:
            running: The running machine's XML; None where it is off.
        """
        if running is None:
            return self.why_not_live
        root = etree.fromstring(running)
        free = hotplug.free_ports(root)
        taken = 0

        def why_not(difference: Difference) -> str | None:
            nonlocal taken
            problem = self.why_not_live(difference)
            ports = _ports(difference, root) if free is not None and problem is None else 0
            if ports > 0 and free is not None and taken + ports > free:
                return no_port(self.domain.name)
            taken += ports
            return problem

        return why_not

    def why_not_live(self, difference: Difference) -> str | None:
        """Return why the running machine can't have a difference; None if it can, or may."""
        path, after = difference.path, difference.after
        if path == "vcpus":
            return processors.why_not_live(self.domain, int(after))
        if path == "memory":
            return memory.why_not_live(self.domain, Size(after))
        if difference.action is Action.CHANGE:
            return None
        added = difference.action is Action.ADD
        if path.startswith("nics."):
            look = nics.why_not_attached_live if added else nics.why_not_detached_live
            return look(self.domain)
        return self._why_not_live_disk(difference) if path.startswith("disks.") else None

    def _why_not_live_disk(self, difference: Difference) -> str | None:
        if difference.action is Action.ADD:
            return disks.why_not_attached_live(self.domain, DiskBus(difference.after["bus"]))
        return disks.why_not_detached_live(self.domain, difference.before["bus"])

    def size_of(self, target: str) -> int | None:
        """Return how large a disk is, in bytes; None where there is no such disk, or no size."""
        sizes = {disk.target: disk.capacity for disk in disks.list_disks(self.domain)}
        return sizes.get(target)

    def make(self, difference: Difference) -> None:
        """Make a difference; see the verbs for what they raise."""
        later = difference.when is not When.LIVE
        kind, _, rest = difference.path.partition(".")
        # A MAC address has no dots, and neither has a drive's name.
        name, _, field = rest.partition(".")
        if kind == "vcpus":
            processors.set_vcpus(self.domain, int(difference.after), next_start=later)
        elif kind == "memory":
            memory.set_memory(
                self.domain,
                difference.after,
                facts=self.facts,
                templates=self.templates,
                next_start=later,
            )
        elif kind == "disks":
            self._change_disk(difference, name, field, later=later)
        elif kind == "nics":
            self._change_nic(difference, name, field, later=later)
        else:
            self._change_medium(name, difference.after, later=later)

    def _change_disk(self, difference: Difference, target: str, field: str, *, later: bool) -> None:
        after = difference.after
        if field == "size":
            disks.resize_disk(self.domain, target, after)
        elif field == "iotune":
            limits = None if after is None else IoTuneSpec.model_validate(after)
            disks.limit_disk(self.domain, target, limits, next_start=later)
        elif difference.action is Action.ADD:
            disks.attach_disk(
                self.domain,
                DiskSpec.model_validate({**after, "target": target}),
                pool=self.pool,
                templates=self.templates,
                next_start=later,
                progress=self.progress,
            )
        else:
            disks.detach_disk(self.domain, target, next_start=later, progress=self.progress)

    def _change_nic(self, difference: Difference, mac: str, field: str, *, later: bool) -> None:
        after = difference.after
        if field == "link":
            nics.set_link(self.domain, mac, up=after != "down", next_start=later)
        elif field == "bandwidth":
            limits = None if after is None else BandwidthSpec.model_validate(after)
            nics.limit_nic(self.domain, mac, limits, next_start=later)
        elif field == "forwards":
            wanted = tuple(ForwardSpec.model_validate(entry) for entry in after or ())
            ports.set_forwards(self.domain, {mac: wanted})
        elif field in _FILTERS:
            filter_nic(
                self.domain,
                mac,
                antispoofing=bool(after) if field == "antispoofing" else None,
                security_groups=tuple(after or ()) if field == "security_groups" else None,
                next_start=later,
                templates=self.templates,
            )
        elif difference.action is Action.ADD:
            nics.attach_nic(
                self.domain,
                NicSpec.model_validate({**after, "mac": mac}),
                facts=self.facts,
                templates=self.templates,
                next_start=later,
                progress=self.progress,
            )
        else:
            nics.detach_nic(self.domain, mac, next_start=later, progress=self.progress)

    def _change_medium(self, target: str, medium: dict[str, Any] | None, *, later: bool) -> None:
        if medium is None:
            media.eject(self.domain, target, next_start=later, progress=self.progress)
            return
        media.insert(
            self.domain,
            target,
            medium.get("path"),
            volume=medium.get("volume"),
            pool=self.pool,
            replace=True,
            next_start=later,
            templates=self.templates,
            progress=self.progress,
        )
