"""Where each drive sits: its bus, and its name on it.

The names decide the addresses, so a machine's drives stay where they are when others come and go.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from vmctl.spec.disk import DiskBus
from vmctl.spec.platforms import platform_of
from vmctl.spec.profiles import profile_for

if TYPE_CHECKING:
    from vmctl.spec.machine import VMSpec

__all__ = [
    "CAPACITY",
    "Drive",
    "DriveKind",
    "fits_bus",
    "place_drives",
    "prefix_of",
    "seed_bus",
    "target_index",
]

CAPACITY = {DiskBus.IDE: 4, DiskBus.SATA: 6, DiskBus.FDC: 2}
"""How many drives a bus takes; the others take as many as there are names."""

_PREFIX = {
    DiskBus.VIRTIO: "vd",
    DiskBus.SCSI: "sd",
    DiskBus.SATA: "sd",
    DiskBus.USB: "sd",
    DiskBus.IDE: "hd",
    DiskBus.FDC: "fd",
}
_LETTERS = string.ascii_lowercase


class DriveKind(StrEnum):
    """Which list of the spec a drive comes from."""

    DISK = "disks"
    CDROM = "cdroms"
    FLOPPY = "floppies"
    SEED = "cloud_init"


@dataclass(frozen=True, kw_only=True)
class Drive:
    """One drive in its place.

    Attributes:
        kind: The list that it comes from.
        index: Its index in that list.
        bus: What it is attached to.
        target: Its name on the bus, as libvirt's ``<target dev=...>``.
    """

    kind: DriveKind
    index: int
    bus: DiskBus
    target: str

    @property
    def path(self) -> str:
        """Where in the spec it is written."""
        return self.kind.value if self.kind is DriveKind.SEED else f"{self.kind}[{self.index}]"


def seed_bus(spec: VMSpec) -> DiskBus:
    """The bus of the drive that the cloud-init seed is in."""
    profile = profile_for(spec.profile, spec.arch, spec.machine)
    bus = profile.seed_bus if profile is not None else DiskBus.SCSI
    platform = platform_of(spec.arch, spec.machine or "")
    if platform is None or bus in platform.buses:
        return bus
    return DiskBus.SATA if bus is DiskBus.IDE else DiskBus.IDE


def place_drives(spec: VMSpec) -> tuple[Drive, ...]:
    """Give every drive of a resolved spec its name: disks, CD-ROMs, floppies, and the seed's."""
    wanted = list(_wanted(spec))
    taken = {target for _, _, _, target in wanted if target is not None}
    drives = []
    for kind, index, bus, target in wanted:
        name = target or _free(bus, taken, last=kind is DriveKind.SEED)
        taken.add(name)
        drives.append(Drive(kind=kind, index=index, bus=bus, target=name))
    return tuple(drives)


def _wanted(spec: VMSpec) -> Iterator[tuple[DriveKind, int, DiskBus, str | None]]:
    for index, disk in enumerate(spec.disks):
        yield DriveKind.DISK, index, disk.bus or DiskBus.VIRTIO, disk.target
    for index, cdrom in enumerate(spec.cdroms):
        yield DriveKind.CDROM, index, cdrom.bus or DiskBus.SATA, cdrom.target
    for index in range(len(spec.floppies)):
        yield DriveKind.FLOPPY, index, DiskBus.FDC, None
    if spec.cloud_init is not None:
        yield DriveKind.SEED, 0, seed_bus(spec), None


def _free(bus: DiskBus, taken: set[str], *, last: bool) -> str:
    """The first free name on the bus; for the seed the last, out of the way of other drives."""
    names = [_PREFIX[bus] + letter for letter in _LETTERS[: CAPACITY.get(bus, len(_LETTERS))]]
    for name in reversed(names) if last else names:
        if name not in taken:
            return name
    pairs = (_PREFIX[bus] + one + two for one in _LETTERS for two in _LETTERS)
    return next(name for name in pairs if name not in taken)


def target_index(target: str) -> int:
    """The number that a target's letters stand for: 0 for ``vda``, 26 for ``vdaa``."""
    number = 0
    for letter in target[2:]:
        number = number * len(_LETTERS) + _LETTERS.index(letter) + 1
    return number - 1


def fits_bus(target: str, bus: DiskBus) -> bool:
    """Whether a target's name is one of the bus's."""
    return target.startswith(_PREFIX[bus]) and target_index(target) < {DiskBus.IDE: 4}.get(bus, 702)


def prefix_of(bus: DiskBus) -> str:
    """How the names on a bus begin."""
    return _PREFIX[bus]
