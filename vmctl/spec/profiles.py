"""Profiles: every default that is a matter of policy, in one place, as data.

A profile fills in what a spec leaves open. Nothing else in vmctl decides by the profile's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from vmctl.spec.balloon import BalloonSpec
from vmctl.spec.clock import ClockOffset
from vmctl.spec.cpu import CpuMode
from vmctl.spec.disk import Discard, DiskBus
from vmctl.spec.firmware import FirmwareType
from vmctl.spec.input import InputBus, InputSpec, InputType
from vmctl.spec.nic import NicModel, NicSpec, NicType
from vmctl.spec.platforms import Arch, platform_of
from vmctl.spec.rng import RngSpec
from vmctl.spec.serial import ConsoleSpec, SerialSpec
from vmctl.spec.sizes import Size
from vmctl.spec.video import VideoModel, VideoSpec

__all__ = ["Profile", "ProfileName", "profile_for"]


class ProfileName(StrEnum):
    """The profiles there are."""

    MODERN = "modern"
    LEGACY = "legacy"


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
