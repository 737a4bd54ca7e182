"""Filling in what a spec leaves open, from its profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmctl.spec.boot import BootDevice, BootSpec
from vmctl.spec.clock import ClockOffset, ClockSpec
from vmctl.spec.cloud_init import CloudInitSpec
from vmctl.spec.disk import DiskFormat, DiskSpec
from vmctl.spec.graphics import GraphicsSpec, GraphicsType
from vmctl.spec.media import FloppySpec
from vmctl.spec.names import hostname_of
from vmctl.spec.nic import NicSpec, NicType
from vmctl.spec.profiles import Profile, profile_for

if TYPE_CHECKING:
    from vmctl.spec.machine import VMSpec

__all__ = ["fill_in"]

_TAKEN_OVER = (
    "vcpus",
    "memory",
    "serials",
    "console",
    "video",
    "inputs",
    "rng",
    "balloon",
    "agent",
    "merge_pages",
    "confined",
)
"""Fields that have the same name and form in a profile."""


def fill_in(spec: VMSpec, *, networks: bool = True) -> VMSpec:
    """Give a copy of the spec in which nothing is left that the profile decides."""
    profile = profile_for(spec.profile, spec.arch, spec.machine)
    if profile is None:  # the checks refuse it
        return spec
    written = spec.model_fields_set
    values: dict[str, Any] = {
        name: getattr(profile, name) for name in _TAKEN_OVER if name not in written
    }
    values["machine"] = spec.machine or profile.machine
    values["max_vcpus"] = spec.max_vcpus or values.get("vcpus", spec.vcpus)
    values["firmware"] = spec.firmware._filled(type=profile.firmware)
    values["clock"] = _clock(spec.clock, profile)
    values["disks"] = _disks(spec, profile)
    values["cdroms"] = tuple(cdrom._filled(bus=profile.cdrom_bus) for cdrom in spec.cdroms)
    values["floppies"] = tuple(_floppy(floppy) for floppy in spec.floppies)
    values["nics"] = _nics(spec, profile, networks=networks)
    values["graphics"] = tuple(_graphics(server, profile) for server in spec.graphics)
    values["boot"] = _boot(spec, values["disks"], values["nics"])
    if "console" not in written and not values.get("serials", spec.serials):
        values["console"] = None
    values["cloud_init"] = _cloud_init(spec, profile)
    for name in ("sound", "watchdog", "panic", "launch_security"):
        values[name] = getattr(spec, name)
    return spec.model_copy(update=values)


def _clock(clock: ClockSpec, profile: Profile) -> ClockSpec:
    return clock._filled(offset=ClockOffset.TIMEZONE if clock.timezone else profile.clock)


def _disks(spec: VMSpec, profile: Profile) -> tuple[DiskSpec, ...]:
    disks = spec.disks
    if not disks and spec.image is not None and "disks" not in spec.model_fields_set:
        disks = (DiskSpec(),)
    return tuple(_disk(disk, spec, profile, first=index == 0) for index, disk in enumerate(disks))


def _disk(disk: DiskSpec, spec: VMSpec, profile: Profile, *, first: bool) -> DiskSpec:
    existing = disk.volume is not None or disk.network is not None
    image = spec.image if first and not existing else None
    kind = DiskFormat.QCOW2 if disk.network is None else DiskFormat.RAW
    filled = disk._filled(bus=profile.disk_bus, format=kind, image=image)
    if "iotune" not in filled.model_fields_set and profile.disk_iotune is not None:
        filled = filled._filled(iotune=profile.disk_iotune)
    return filled if filled.read_only else filled._filled(discard=profile.disk_discard)


def _graphics(server: GraphicsSpec, profile: Profile) -> GraphicsSpec:
    spice = server.type is GraphicsType.SPICE
    return server._filled(exchange=profile.graphics_exchange) if spice else server


def _floppy(floppy: FloppySpec) -> FloppySpec:
    return floppy._filled(format=DiskFormat.RAW)


def _nics(spec: VMSpec, profile: Profile, *, networks: bool) -> tuple[NicSpec, ...]:
    nics = spec.nics
    if "nics" not in spec.model_fields_set:
        nics = profile.nics if networks or not profile.nics else (NicSpec(type=NicType.USER),)
    return tuple(_nic(nic, profile, tenant=spec.tenant is not None) for nic in nics)


def _nic(nic: NicSpec, profile: Profile, *, tenant: bool) -> NicSpec:
    # Who lies about its address to its host gets what is for another tenant's guest.
    wanted = profile.nic_antispoofing or tenant or bool(nic.security_groups)
    filled = nic._filled(
        model=profile.nic_model, antispoofing=wanted and nic.type is not NicType.USER
    )
    if nic.type is NicType.USER or profile.nic_isolated is None:
        return filled
    return filled._filled(isolated=profile.nic_isolated)


def _boot(spec: VMSpec, disks: tuple[DiskSpec, ...], nics: tuple[NicSpec, ...]) -> BootSpec:
    there = {
        BootDevice.DISK: bool(disks),
        BootDevice.CDROM: bool(spec.cdroms),
        BootDevice.FLOPPY: bool(spec.floppies),
    }
    order = tuple(device for device, present in there.items() if present)
    return spec.boot._filled(order=order or ((BootDevice.NETWORK,) if nics else ()))


def _cloud_init(spec: VMSpec, profile: Profile) -> CloudInitSpec | None:
    cloud_init = spec.cloud_init
    if "cloud_init" not in spec.model_fields_set and profile.cloud_init and spec.image is not None:
        cloud_init = CloudInitSpec()
    return cloud_init._filled(hostname=hostname_of(spec.name)) if cloud_init is not None else None
