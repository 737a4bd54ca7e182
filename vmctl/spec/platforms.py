"""What kinds of machine there are, as data: which buses and devices each can have.

Source: QEMU's machine types as libvirt drives them (https://libvirt.org/formatdomain.html).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from vmctl.spec.disk import DiskBus

__all__ = ["Arch", "Platform", "platform_of"]


class Arch(StrEnum):
    """The guest's architecture, by libvirt's names."""

    X86_64 = "x86_64"
    I686 = "i686"
    AARCH64 = "aarch64"


@dataclass(frozen=True, kw_only=True)
class Platform:
    """One kind of machine.

    Attributes:
        name: How messages name it.
        buses: What drives can be attached to.
        pci: Whether it has PCI; virtio devices and most others need it.
        pcie: Whether it has PCI Express, where hot-plug needs root ports.
        uefi: Whether UEFI firmware runs on it.
        bios: Whether a BIOS runs on it.
        acpi: Whether ACPI tables are offered whatever the firmware.
        ps2: Whether it has PS/2 ports.
        floppy: Whether it has a floppy controller.
        usb: The model of USB controller to use.
        hpet: Whether there is an HPET that can be taken away.
        tpm_models: The TPM's model by version.
    """

    name: str
    buses: frozenset[DiskBus]
    pci: bool = True
    pcie: bool = False
    uefi: bool = True
    bios: bool = True
    acpi: bool = True
    ps2: bool = True
    floppy: bool = True
    usb: str = "qemu-xhci"
    hpet: bool = True
    tpm_models: tuple[tuple[str, str], ...] = ()


_B = DiskBus
_X86_TPM = (("1.2", "tpm-tis"), ("2.0", "tpm-crb"))

_Q35 = Platform(
    name="q35",
    buses=frozenset({_B.VIRTIO, _B.SCSI, _B.SATA, _B.USB, _B.FDC}),
    pcie=True,
    tpm_models=_X86_TPM,
)
_PC = Platform(
    name="pc (i440fx)",
    buses=frozenset({_B.VIRTIO, _B.SCSI, _B.SATA, _B.IDE, _B.USB, _B.FDC}),
    usb="piix3-uhci",
    tpm_models=_X86_TPM,
)
_ISAPC = Platform(
    name="isapc",
    buses=frozenset({_B.FDC}),  # its IDE ports are QEMU's, and libvirt knows nothing of them
    pci=False,
    uefi=False,
    acpi=False,
    hpet=False,
)
_VIRT = Platform(
    name="virt",
    buses=frozenset({_B.VIRTIO, _B.SCSI, _B.SATA, _B.USB}),
    pcie=True,
    bios=False,
    acpi=False,
    ps2=False,
    floppy=False,
    hpet=False,
    tpm_models=(("2.0", "tpm-tis"),),
)

_BY_MACHINE = {
    Arch.AARCH64: ((re.compile(r"virt(-[0-9.]+)?"), _VIRT),),
    Arch.X86_64: (
        (re.compile(r"q35|pc-q35-.+"), _Q35),
        (re.compile(r"isapc"), _ISAPC),
        (re.compile(r"pc|pc-i440fx-.+|pc-[0-9.]+"), _PC),
    ),
}
_BY_MACHINE[Arch.I686] = _BY_MACHINE[Arch.X86_64]


def platform_of(arch: Arch, machine: str) -> Platform | None:
    """Find the kind of a machine type; None when there is no such kind of machine."""
    for pattern, platform in _BY_MACHINE[arch]:
        if pattern.fullmatch(machine):
            return platform
    return None
