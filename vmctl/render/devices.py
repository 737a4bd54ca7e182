"""Drives, controllers and consoles as the templates see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from vmctl.render.placement import Placement
from vmctl.render.sources import DiskSource, as_source, from_spec
from vmctl.spec import ConsoleType, DiskBus, FloppySpec, InputBus, NicModel, VideoModel, VMSpec
from vmctl.spec.disk import DiskSpec
from vmctl.spec.drives import Drive, DriveKind, place_drives, target_index
from vmctl.spec.platforms import Platform
from vmctl.spec.profiles import Profile

__all__ = [
    "ConsoleView",
    "Controller",
    "DriveView",
    "SerialView",
    "console_view",
    "controllers",
    "disk_view",
    "drive_address",
    "drive_views",
    "serial_views",
]

_LAST_SATA_PORT = 5


@dataclass(frozen=True, kw_only=True)
class DriveAddress:
    """Where on its controller a drive sits."""

    bus: int = 0
    target: int = 0
    unit: int = 0


@dataclass(frozen=True, kw_only=True)
class DriveView:
    """One ``<disk>``."""

    device: str
    format: str
    source: DiskSource | None
    target: str
    bus: DiskBus
    address: DriveAddress | None
    read_only: bool = False
    serial: str | None = None
    cache: str | None = None
    io: str | None = None
    discard: str | None = None
    iotune: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Controller:
    """One ``<controller>``."""

    type: str
    index: int | None = None
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class SerialView:
    """One ``<serial>``."""

    type: str
    port: int
    log: str | None


@dataclass(frozen=True, kw_only=True)
class ConsoleView:
    """One ``<console>``."""

    type: str
    port: int
    log: str | None


def drive_views(spec: VMSpec, placement: Placement) -> list[DriveView]:
    """Give every drive of the resolved spec, in its place."""
    views = []
    sata_ports = 0
    for drive in place_drives(spec):
        if drive.kind is DriveKind.SEED and not placement.has_seed:
            continue
        port = _LAST_SATA_PORT if drive.kind is DriveKind.SEED else sata_ports
        sata_ports += drive.bus is DiskBus.SATA
        views.append(_view(drive, spec, placement, drive_address(drive, port)))
    return views


def _view(
    drive: Drive, spec: VMSpec, placement: Placement, address: DriveAddress | None
) -> DriveView:
    if drive.kind is DriveKind.DISK:
        source, form = placement.disks[drive.index], placement.disk_formats[drive.index]
        return disk_view(drive, spec.disks[drive.index], as_source(source), form, address)
    if drive.kind is DriveKind.FLOPPY:
        return _floppy_view(drive, spec.floppies[drive.index], placement, address)
    source = placement.seed if drive.kind is DriveKind.SEED else placement.cdroms[drive.index]
    return DriveView(
        device="cdrom",
        format="raw",
        source=as_source(source),
        target=drive.target,
        bus=drive.bus,
        address=address,
        read_only=True,
    )


def disk_view(
    drive: Drive,
    disk: DiskSpec,
    source: DiskSource | None,
    form: str,
    address: DriveAddress | None,
) -> DriveView:
    """Give a disk in its place; a server's disk has its source in its spec."""
    own = None if disk.network is None else from_spec(disk.network)
    return DriveView(
        device="disk",
        format=form,
        source=own or source,
        target=drive.target,
        bus=drive.bus,
        address=address,
        read_only=disk.read_only,
        serial=disk.serial,
        cache=disk.cache,
        io=disk.io,
        discard=disk.discard,
        iotune={} if disk.iotune is None else disk.iotune.given(),
    )


def _floppy_view(
    drive: Drive, floppy: FloppySpec, placement: Placement, address: DriveAddress | None
) -> DriveView:
    return DriveView(
        device="floppy",
        format=floppy.format or "raw",
        source=as_source(placement.floppies[drive.index]),
        target=drive.target,
        bus=drive.bus,
        address=address,
        read_only=floppy.read_only,
    )


def drive_address(drive: Drive, sata_port: int) -> DriveAddress | None:
    """Give where on its controller a drive sits; None on buses where libvirt chooses."""
    number = target_index(drive.target)
    match drive.bus:
        case DiskBus.IDE:
            return DriveAddress(bus=number // 2, unit=number % 2)
        case DiskBus.FDC:
            return DriveAddress(unit=number)
        case DiskBus.SATA:
            return DriveAddress(unit=sata_port)
        case DiskBus.SCSI:
            return DriveAddress(target=number)
        case _:
            return None


def controllers(
    spec: VMSpec, platform: Platform, profile: Profile, drives: list[DriveView]
) -> list[Controller]:
    """Give the controllers that the devices need, and ports for those that come later."""
    found = list(_controllers(spec, platform, drives))
    if platform.pcie:
        count = _port_users(spec, drives, found) + profile.spare_ports
        ports = [
            Controller(type="pci", index=index, model="pcie-root-port")
            for index in range(1, count + 1)
        ]
        found = [Controller(type="pci", index=0, model="pcie-root"), *ports, *found]
    return found


def _controllers(spec: VMSpec, platform: Platform, drives: list[DriveView]) -> Iterator[Controller]:
    buses = {drive.bus for drive in drives}
    usb = DiskBus.USB in buses or any(device.bus is InputBus.USB for device in spec.inputs)
    usb = usb or (spec.sound is not None and spec.sound.model == "usb")
    if usb:
        yield Controller(type="usb", index=0, model=platform.usb)
    else:
        yield Controller(type="usb", model="none")
    if DiskBus.SCSI in buses:
        yield Controller(type="scsi", index=0, model="virtio-scsi")
    if spec.agent or (spec.console is not None and spec.console.type is ConsoleType.VIRTIO):
        yield Controller(type="virtio-serial", index=0)


def _port_users(spec: VMSpec, drives: list[DriveView], found: list[Controller]) -> int:
    """How many devices take a PCI Express port.

    Adapters that are not virtio's sit on the root bus, or behind one bridge for all of them, which
    takes a port as well.
    """
    express = {NicModel.VIRTIO, NicModel.E1000E}
    users = sum(drive.bus is DiskBus.VIRTIO for drive in drives)
    users += sum(nic.model in express for nic in spec.nics)
    users += sum(device.bus is InputBus.VIRTIO for device in spec.inputs)
    users += sum(controller.model != "none" for controller in found)
    users += spec.rng is not None
    users += len(spec.shares)
    users += spec.balloon is not None
    users += spec.video is not None and spec.video.model is VideoModel.VIRTIO
    conventional = any(nic.model not in express for nic in spec.nics)
    conventional |= spec.watchdog is not None and spec.watchdog.model == "i6300esb"
    conventional |= spec.sound is not None and spec.sound.model in {"ac97", "es1370", "ich6"}
    return users + conventional


def serial_views(spec: VMSpec, placement: Placement) -> list[SerialView]:
    """Give the serial ports; the first one's output is the console log."""
    return [
        SerialView(
            type=serial.type,
            port=port,
            log=placement.console_log if port == 0 and serial.log else None,
        )
        for port, serial in enumerate(spec.serials)
    ]


def console_view(spec: VMSpec, placement: Placement) -> ConsoleView | None:
    """Give the console where it is one of its own; libvirt makes the serial one by itself."""
    if spec.console is None or spec.console.type is not ConsoleType.VIRTIO:
        return None
    log = None if spec.serials else placement.console_log
    return ConsoleView(type="virtio", port=1 if spec.serials else 0, log=log)
