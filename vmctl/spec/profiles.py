"""Profiles: every default that is a matter of policy, in one place, as data.

A profile fills in what a spec leaves open. Nothing else in vmctl decides by the profile's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from vmctl.spec.balloon import BalloonSpec
from vmctl.spec.clock import ClockOffset
from vmctl.spec.cpu import CpuMode
from vmctl.spec.disk import Discard, DiskBus
from vmctl.spec.firmware import FirmwareType, TpmVersion
from vmctl.spec.input import InputBus, InputSpec, InputType
from vmctl.spec.limits import BandwidthSpec, IoTuneSpec, RateSpec
from vmctl.spec.nic import NicModel, NicSpec, NicType
from vmctl.spec.platforms import Arch, platform_of
from vmctl.spec.rng import RngSpec
from vmctl.spec.serial import ConsoleSpec, SerialSpec
from vmctl.spec.sizes import Size
from vmctl.spec.video import VideoModel, VideoSpec

__all__ = ["Profile", "ProfileName", "Wishes", "profile_for"]


class ProfileName(StrEnum):
    """The profiles there are."""

    MODERN = "modern"
    LEGACY = "legacy"
    ISOLATED = "isolated"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a machine gets where its host has it, and does without where it has not.

    Attributes:
        tpm: An emulated TPM of that version.
        secure_boot: Secure boot, for a machine that starts by UEFI.
        cpu_limit: What it may take of the host's processors, in percent of each virtual one.
        nic_bandwidth: What each NIC may carry.
    """

    tpm: TpmVersion | None = None
    secure_boot: bool = False
    cpu_limit: int | None = None
    nic_bandwidth: BandwidthSpec | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Defaults for one kind of machine on one architecture.

    Attributes:
        machine: The machine type.
        firmware: What it starts with.
        vcpus: Number of processors.
        memory: Its memory.
        cpu_mode_kvm: CPU mode where KVM runs the guest.
        cpu_mode_tcg: CPU mode where QEMU emulates the processor.
        cpu_model: The model, where the mode is custom.
        disk_bus: What disks are attached to.
        disk_discard: Whether trim gives space back; None leaves it to the hypervisor.
        cdrom_bus: What CD-ROM drives are attached to.
        seed_bus: What the drive with the cloud-init seed is attached to.
        nics: The NICs of a spec that lists none.
        nic_model: The hardware of a NIC.
        nic_antispoofing: Whether guests can send by their own addresses only.
        nic_isolated: Whether a NIC reaches none of the others that are isolated.
        serials: The serial ports.
        console: What the console is made of.
        video: The graphics adapter.
        inputs: The input devices.
        rng: The random number device.
        balloon: The memory balloon.
        agent: Whether there is a channel for the guest agent.
        clock: What the hardware clock shows.
        cloud_init: Whether a machine with an image is provisioned by cloud-init.
        spare_ports: Free PCI Express ports for devices that are plugged in later.
        memory_slots: How many times memory can be plugged in, where there is a maximum.
        merge_pages: Whether the host may keep equal memory of several guests once.
        confined: Whether QEMU gets a security label of its own.
        disk_iotune: What may be read and written of each disk.
        graphics_exchange: Whether a SPICE client exchanges clipboard and files with the guest.
        graphics_guarded: Whether graphics servers have to be on loopback, with a password.
        wishes: What a machine gets on a host that has it.
    """

    machine: str
    firmware: FirmwareType
    vcpus: int = 1
    memory: Size
    cpu_mode_kvm: CpuMode
    cpu_mode_tcg: CpuMode
    cpu_model: str | None = None
    disk_bus: DiskBus
    disk_discard: Discard | None = None
    cdrom_bus: DiskBus
    seed_bus: DiskBus
    nics: tuple[NicSpec, ...] = field(
        default_factory=lambda: (NicSpec(type=NicType.NETWORK, network="default"),)
    )
    nic_model: NicModel
    nic_antispoofing: bool = False
    nic_isolated: bool | None = None
    serials: tuple[SerialSpec, ...] = (SerialSpec(),)
    console: ConsoleSpec | None = field(default_factory=ConsoleSpec)
    video: VideoSpec
    inputs: tuple[InputSpec, ...] = ()
    rng: RngSpec | None = None
    balloon: BalloonSpec | None = None
    agent: bool
    clock: ClockOffset = ClockOffset.UTC
    cloud_init: bool = True
    spare_ports: int = 0
    memory_slots: int = 16
    merge_pages: bool = True
    confined: bool = False
    disk_iotune: IoTuneSpec | None = None
    graphics_exchange: bool | None = None
    graphics_guarded: bool = False
    wishes: Wishes = Wishes()


_NO_VIDEO = VideoSpec(model=VideoModel.NONE)
# Without a period, nobody asks the guest how much of its memory it uses.
_BALLOON = BalloonSpec(stats_period=10)

# BIOS and not UEFI: an internal snapshot of a running machine needs it, for UEFI's variable
# store is a raw file, which can't hold one. virtio-scsi for the seed: Debian's cloud kernel has no
# AHCI driver, and a drive on virtio-blk can't be ejected. SATA for CD-ROMs: installers bring its
# driver. A VGA adapter without a graphics server: it costs nothing, and screenshots need it.
_MODERN = Profile(
    machine="q35",
    firmware=FirmwareType.BIOS,
    memory=Size("1GiB"),
    cpu_mode_kvm=CpuMode.HOST_PASSTHROUGH,
    cpu_mode_tcg=CpuMode.MAXIMUM,
    disk_bus=DiskBus.VIRTIO,
    disk_discard=Discard.UNMAP,
    cdrom_bus=DiskBus.SATA,
    seed_bus=DiskBus.SCSI,
    nic_model=NicModel.VIRTIO,
    video=VideoSpec(model=VideoModel.VGA),
    rng=RngSpec(),
    balloon=_BALLOON,
    agent=True,
    spare_ports=8,
)
# What hardening guides ask for: no device that isn't needed, for each is code of QEMU's that a
# hostile guest can speak to; nothing that tells a guest of its neighbours, or takes from them. The
# agent's channel is the guest's way to talk to the host's programs. Firmware stays what an image
# needs to boot, whatever the host has.
_GIBIT = 131072  # KiB a second
_WISHES = Wishes(
    tpm=TpmVersion.V2_0,
    secure_boot=True,
    cpu_limit=100,
    nic_bandwidth=BandwidthSpec(
        inbound=RateSpec(average=_GIBIT, burst=_GIBIT),
        outbound=RateSpec(average=_GIBIT, burst=_GIBIT),
    ),
)
_ISOLATED: dict[str, Any] = {
    "nic_isolated": True,
    "nic_antispoofing": True,
    "video": _NO_VIDEO,
    "rng": RngSpec(rate_bytes=65536, rate_period=1000),
    "balloon": None,
    "agent": False,
    "spare_ports": 4,
    "merge_pages": False,
    "confined": True,
    "disk_iotune": IoTuneSpec(
        total_bytes_sec=Size("200MiB"),
        total_bytes_sec_max=Size("400MiB"),
        total_iops_sec=2000,
        total_iops_sec_max=4000,
    ),
    "graphics_exchange": False,
    "graphics_guarded": True,
    "wishes": _WISHES,
}
# There is no BIOS and no VGA on Arm's virtual machines, and no SATA that every kernel knows.
_MODERN_ARM = Profile(
    machine="virt",
    firmware=FirmwareType.UEFI,
    memory=Size("1GiB"),
    cpu_mode_kvm=CpuMode.HOST_PASSTHROUGH,
    cpu_mode_tcg=CpuMode.MAXIMUM,
    disk_bus=DiskBus.VIRTIO,
    disk_discard=Discard.UNMAP,
    cdrom_bus=DiskBus.SCSI,
    seed_bus=DiskBus.SCSI,
    nic_model=NicModel.VIRTIO,
    video=VideoSpec(model=VideoModel.VIRTIO),
    rng=RngSpec(),
    balloon=_BALLOON,
    agent=True,
    spare_ports=8,
)
# The hardware that an old system has drivers for; no device that it would ask about at every boot.
_LEGACY = Profile(
    machine="pc",
    firmware=FirmwareType.BIOS,
    memory=Size("512MiB"),
    cpu_mode_kvm=CpuMode.CUSTOM,
    cpu_mode_tcg=CpuMode.CUSTOM,
    cpu_model="qemu64",
    disk_bus=DiskBus.IDE,
    cdrom_bus=DiskBus.IDE,
    seed_bus=DiskBus.IDE,
    nic_model=NicModel.E1000,
    video=VideoSpec(model=VideoModel.VGA),
    inputs=(
        InputSpec(type=InputType.MOUSE, bus=InputBus.PS2),
        InputSpec(type=InputType.KEYBOARD, bus=InputBus.PS2),
    ),
    agent=False,
    clock=ClockOffset.LOCALTIME,
    cloud_init=False,
)
_LEGACY_32 = replace(_LEGACY, cpu_model="qemu32")
# Without PCI there is no NIC and no adapter that libvirt can plug in.
_LEGACY_ISA = replace(
    _LEGACY, machine="isapc", cpu_model="pentium", memory=Size("64MiB"), nics=(), video=_NO_VIDEO
)

_PROFILES = {
    (ProfileName.MODERN, Arch.X86_64): _MODERN,
    (ProfileName.MODERN, Arch.I686): _MODERN,
    (ProfileName.MODERN, Arch.AARCH64): _MODERN_ARM,
    (ProfileName.ISOLATED, Arch.X86_64): replace(_MODERN, **_ISOLATED),
    (ProfileName.ISOLATED, Arch.AARCH64): replace(_MODERN_ARM, **_ISOLATED),
    (ProfileName.LEGACY, Arch.X86_64): _LEGACY,
    (ProfileName.LEGACY, Arch.I686): _LEGACY_32,
}


def profile_for(name: ProfileName, arch: Arch, machine: str | None = None) -> Profile | None:
    """Find a profile's defaults for an architecture; None when it has none for it."""
    profile = _PROFILES.get((name, arch))
    if profile is _LEGACY or profile is _LEGACY_32:
        platform = platform_of(arch, machine or profile.machine)
        return profile if platform is None or platform.pci else _LEGACY_ISA
    return profile
