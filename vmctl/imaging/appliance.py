"""A machine as another hypervisor describes it, in that one's own words."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Appliance", "ApplianceDisk", "ApplianceNic"]


@dataclass(frozen=True, kw_only=True)
class ApplianceDisk:
    """A disk of an appliance.

    Attributes:
        file: The name of the file with its content; empty for a blank disk.
        file_size: Bytes of that file, where the descriptor says it.
        capacity: Bytes that the guest sees.
        format: ``vmdk``, or ``vhd``, ``raw`` where the descriptor says that.
        gzip: Whether the file is compressed as a whole.
        bus: ``ide``, ``scsi``, ``sata`` or ``nvme``.
        controller: The controller's model in the exporter's words; may be empty.
    """

    file: str
    file_size: int | None
    capacity: int
    format: str
    gzip: bool
    bus: str
    controller: str


@dataclass(frozen=True, kw_only=True)
class ApplianceNic:
    """A network interface: its model and network in the exporter's words, its MAC if stated."""

    model: str
    network: str
    mac: str = ""


@dataclass(frozen=True, kw_only=True)
class Appliance:
    """One machine as an OVF descriptor tells of it.

    Attributes:
        name: Its name, in the exporter's words.
        os: Its operating system, all the words that there are on it.
        vcpus: Number of processors.
        memory: Bytes.
        uefi: Whether it starts with UEFI.
        secure_boot: Whether that is to check signatures.
        disks: In the order of their controllers and places.
        nics: In the descriptor's order.
        cdroms: Number of CD-ROM drives.
        floppies: Number of floppy drives.
        other: What else it has, that has no counterpart here.
    """

    name: str
    os: str = ""
    vcpus: int = 1
    memory: int = 1 << 30
    uefi: bool = False
    secure_boot: bool = False
    disks: tuple[ApplianceDisk, ...] = ()
    nics: tuple[ApplianceNic, ...] = ()
    cdroms: int = 0
    floppies: int = 0
    other: tuple[str, ...] = ()
