"""What is wrong with the drives of a machine together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmctl.errors import SpecProblem
from vmctl.spec.disk import DiskBus, DiskFormat
from vmctl.spec.drives import CAPACITY, Drive, DriveKind, fits_bus, place_drives, prefix_of
from vmctl.spec.platforms import Platform

if TYPE_CHECKING:
    from vmctl.spec.machine import VMSpec

__all__ = ["check_drives"]

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MOST_DRIVES = 200
_SECTOR = 512


def number(count: int) -> str:
    """Write a small number as a word."""
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def check_drives(spec: VMSpec, platform: Platform) -> Iterator[SpecProblem]:
    """Find what is wrong with disks, CD-ROMs and floppies."""
    total = len(spec.disks) + len(spec.cdroms)
    if total > _MOST_DRIVES:
        yield SpecProblem("disks", f"a machine takes {_MOST_DRIVES} drives, this spec has {total}")
        return
    yield from _check_sources(spec)
    yield from _check_names(spec)
    if len(spec.floppies) > CAPACITY[DiskBus.FDC]:
        yield SpecProblem(
            "floppies[2]",
            f"a floppy controller takes two drives, this spec has {number(len(spec.floppies))}",
        )
        return
    drives = place_drives(spec)
    yield from _check_buses(drives, spec, platform)
    yield from _check_capacity(drives)


def _check_sources(spec: VMSpec) -> Iterator[SpecProblem]:
    for index, disk in enumerate(spec.disks):
        path = f"disks[{index}]"
        existing = "volume" if disk.volume is not None else "network"
        if index == 0 and spec.image is not None and getattr(disk, existing) is not None:
            yield SpecProblem(
                f"{path}.{existing}",
                "the first disk is the clone of the machine's image; list this one after it",
            )
        elif index == 0 and spec.image is not None and disk.image != spec.image:
            yield SpecProblem(
                f"{path}.image", "contradicts the machine's own image; leave one of them out"
            )
        elif not any((disk.size, disk.image, disk.volume, disk.network)):
            yield SpecProblem(
                path, "needs a size (blank), an image (linked clone), a volume or a network disk"
            )
        linked = disk.image is not None and not disk.full_clone
        if linked and disk.format is not DiskFormat.QCOW2:
            yield SpecProblem(f"{path}.format", "a linked clone is qcow2; leave format out")
        if disk.size is not None and int(disk.size) % _SECTOR:
            yield SpecProblem(
                f"{path}.size", f"{disk.size} is not a whole number of sectors (512B)"
            )
        if disk.read_only and disk.bus in {DiskBus.IDE, DiskBus.SATA}:
            yield SpecProblem(f"{path}.read_only", f"a disk on {disk.bus} can't be read-only")
    for index, cdrom in enumerate(spec.cdroms):
        if cdrom.bus is DiskBus.USB and cdrom.path is None and cdrom.volume is None:
            yield SpecProblem(f"cdroms[{index}]", "a CD-ROM drive on usb can't be empty")


def _check_names(spec: VMSpec) -> Iterator[SpecProblem]:
    targets: dict[str, str] = {}
    serials: dict[str, str] = {}
    volumes: dict[str, str] = {}
    named = [(f"disks[{index}]", disk) for index, disk in enumerate(spec.disks)]
    for path, disk in named:
        for seen, name, value in (
            (serials, "serial", disk.serial),
            (volumes, "volume", disk.volume),
        ):
            if value is not None and value in seen:
                yield SpecProblem(f"{path}.{name}", f"{value} is {seen[value]}'s already")
            if value is not None:
                seen[value] = path
    cdroms = [(f"cdroms[{index}]", cdrom) for index, cdrom in enumerate(spec.cdroms)]
    places = [(path, drive.target, drive.bus) for path, drive in named]
    places += [(path, drive.target, drive.bus) for path, drive in cdroms]
    for path, target, bus in places:
        if target is None or bus is None:
            continue
        if target in targets:
            yield SpecProblem(f"{path}.target", f"{target} is {targets[target]}'s already")
        elif not fits_bus(target, bus):
            yield SpecProblem(
                f"{path}.target",
                f"{target} is not a name on bus {bus}, where they are like {prefix_of(bus)}a",
            )
        targets[target] = path


def _check_buses(
    drives: tuple[Drive, ...], spec: VMSpec, platform: Platform
) -> Iterator[SpecProblem]:
    for drive in drives:
        if drive.bus in platform.buses:
            continue
        if drive.bus is DiskBus.FDC:
            yield SpecProblem(drive.path, f"machine type {spec.machine} has no floppy controller")
            continue
        path = drive.path if drive.kind is DriveKind.SEED else f"{drive.path}.bus"
        kinds = ", ".join(sorted(platform.buses - {DiskBus.FDC}))
        if not kinds:
            what = f"libvirt can't give machine type {spec.machine} any disk; pc can have them"
            yield SpecProblem(drive.path, what)
            continue
        yield SpecProblem(path, f"machine type {spec.machine} has no {drive.bus}; it has {kinds}")


def _check_capacity(drives: tuple[Drive, ...]) -> Iterator[SpecProblem]:
    for bus in (DiskBus.IDE, DiskBus.SATA):
        on_it = [drive for drive in drives if drive.bus is bus]
        capacity = CAPACITY[bus]
        if len(on_it) <= capacity:
            continue
        over = next((drive for drive in on_it[capacity:] if drive.kind is not DriveKind.SEED), None)
        seed = any(drive.kind is DriveKind.SEED for drive in on_it)
        article = "an IDE" if bus is DiskBus.IDE else "a SATA"
        message = (
            f"{article} controller takes {number(capacity)} disks, "
            f"this spec has {number(len(on_it))}"
        )
        if seed:
            message += " with the drive for cloud-init's seed"
        yield SpecProblem((over or on_it[capacity - 1]).path, message)
