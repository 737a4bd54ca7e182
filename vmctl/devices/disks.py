"""Disks of a machine: listed, attached, detached, grown and limited, while it runs or not."""

from __future__ import annotations

from collections.abc import Sequence

from vmctl.changes import carry_out, changing
from vmctl.devices.disk_attaching import attach_disk, why_not_attached_live
from vmctl.devices.disk_detaching import DETACH_SECONDS, detach_disk, why_not_detached_live
from vmctl.devices.disk_list import AttachedDisk, find_disk, list_disks
from vmctl.devices.machine import recorded, spec_of
from vmctl.errors import ConflictError, UnsupportedError, WrongStateError
from vmctl.hypervisor import hotplug, tuning
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.hotplug import Scope
from vmctl.hypervisor.metadata import Pending
from vmctl.hypervisor.volumes import at_path
from vmctl.progress import ProgressCallback
from vmctl.render.templates import Templates
from vmctl.spec import DiskSpec, IoTuneSpec
from vmctl.volumes import Volumes

__all__ = [
    "AttachedDisk",
    "Disks",
    "attach_disk",
    "detach_disk",
    "limit_disk",
    "list_disks",
    "resize_disk",
    "why_not_attached_live",
    "why_not_detached_live",
]


def resize_disk(domain: Domain, target: str, size: int | str) -> AttachedDisk:
    """Make a disk larger; the guest of a running machine sees it at once.

    Partitions and file systems inside grow by the guest's own tools.

    Args:
        domain: The machine.
        target: The disk's name, ``vda``.
        size: What it shall have: bytes, or text with a unit.

    Raises:
        NotFoundError: There is no such disk.
        UsageError: It has that size already, or is larger: disks don't shrink.
        ConflictError: It is read-only, or others use its volume.
        ResourceError: There is no room.
        UnsupportedError: It is a server's disk.
    """
    with changing(domain):
        disk = find_disk(domain, target)
        _refuse_growth(domain, disk)
        volume = at_path(domain.connection, disk.source)
        Volumes(domain.connection, volume.pool).grow(f"{volume.pool}/{volume.name}", size)
    return find_disk(domain, target)


def _refuse_growth(domain: Domain, disk: AttachedDisk) -> None:
    if disk.read_only:
        raise ConflictError(
            f"{disk.target} of '{domain.name}' is read-only", hint="attach it for writing first"
        )
    if not disk.source.startswith("/"):
        raise UnsupportedError(
            f"{disk.target} of '{domain.name}' is a server's disk ({disk.source})",
            hint="make it larger on its server",
        )


def limit_disk(
    domain: Domain, target: str, limits: IoTuneSpec | None, *, next_start: bool = False
) -> AttachedDisk:
    """Limit what the guest may read and write in a second; all limits are replaced by these.

    Args:
        domain: The machine.
        target: The disk's name, ``vda``.
        limits: The limits; None takes them all away.
        next_start: Whether a running machine goes on as it is until then.

    Raises:
        NotFoundError: There is no such disk.
    """
    with changing(domain) as record:
        disk = find_disk(domain, target)
        spec = spec_of(record)
        known = {entry.target: entry for entry in spec.disks}
        if target not in known or not disk.later:
            raise WrongStateError(
                f"{target} of '{domain.name}' goes at the next start, or its spec lacks it",
                state=domain.state().value,
                hint=f"see its disks: `vmctl disk list {domain.name}`",
            )
        scope = hotplug.scope_of(domain, next_start=next_start)
        wanted = {} if limits is None else limits.given()
        disks = tuple(
            entry.model_copy(update={"iotune": limits}) if entry.target == target else entry
            for entry in spec.disks
        )
        changed = spec.model_copy(update={"disks": disks})

        def act() -> None:
            tuning.set_io_limits(domain, target, wanted, Scope(now=scope.now and disk.now))

        tune = f"devices/disk[target/@dev='{target}']/iotune"
        proof = (
            " and ".join(f"{tune}/{name}='{value}'" for name, value in wanted.items())
            or f"not({tune})"
        )
        carry_out(domain, Pending.of_value(recorded(changed, record), proof), act)
    return find_disk(domain, target)


class Disks:
    """The disks of one machine.

    Each change is made to the running machine and to the definition of its next start, and vmctl's
    record says the same afterwards.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        pool: str,
        templates: Templates | None = None,
    ) -> None:
        self._domain = domain
        self._pool = pool
        self._templates = templates

    def list(self) -> Sequence[AttachedDisk]:
        """Return the disks that it has now, or will have at its next start."""
        return list_disks(self._domain)

    def attach(
        self,
        disk: DiskSpec,
        *,
        next_start: bool = False,
        progress: ProgressCallback | None = None,
    ) -> AttachedDisk:
        """Attach a disk; see `vmctl.devices.disks.attach_disk` for what it raises."""
        return attach_disk(
            self._domain,
            disk,
            pool=self._pool,
            templates=self._templates,
            next_start=next_start,
            progress=progress,
        )

    def detach(
        self,
        target: str,
        *,
        force: bool = False,
        delete: bool = False,
        next_start: bool = False,
        timeout: float = DETACH_SECONDS,
        progress: ProgressCallback | None = None,
    ) -> AttachedDisk:
        """Detach a disk; see `vmctl.devices.disks.detach_disk` for what it raises."""
        return detach_disk(
            self._domain,
            target,
            force=force,
            delete=delete,
            next_start=next_start,
            timeout=timeout,
            progress=progress,
        )

    def resize(self, target: str, size: int | str) -> AttachedDisk:
        """Make a disk larger; see `vmctl.devices.disks.resize_disk` for what it raises."""
        return resize_disk(self._domain, target, size)

    def set_limits(
        self, target: str, limits: IoTuneSpec | None, *, next_start: bool = False
    ) -> AttachedDisk:
        """Limit what the guest may read and write; None takes all limits away."""
        return limit_disk(self._domain, target, limits, next_start=next_start)
