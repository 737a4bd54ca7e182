"""What is booted, in which order."""

from __future__ import annotations

from enum import StrEnum

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.text import LongLine

__all__ = ["BootDevice", "BootSpec"]


class BootDevice(StrEnum):
    """What the firmware tries."""

    DISK = "disk"
    CDROM = "cdrom"
    NETWORK = "network"
    FLOPPY = "floppy"


class BootSpec(SpecModel):
    """Boot order, or a kernel that is booted without a boot loader."""

    order: tuple[BootDevice, ...] | None = None
    """What the firmware tries, in this order: disk, cdrom, network, floppy."""
    menu: bool | None = None
    """Whether the firmware shows its boot menu."""
    kernel: LongLine | None = None
    """A kernel to boot directly: a path on the machine that vmctl runs on; it is uploaded."""
    initrd: LongLine | None = None
    """The kernel's initial RAM disk, likewise."""
    cmdline: LongLine | None = None
    """The kernel's command line."""

    def _problems(self) -> list[SpecProblem]:
        problems = [
            SpecProblem(name, "needs a kernel beside it (boot.kernel)")
            for name in ("initrd", "cmdline")
            if getattr(self, name) is not None and self.kernel is None
        ]
        order = self.order or ()
        for index, device in enumerate(order):
            if device in order[:index]:
                problems.append(SpecProblem(f"order[{index}]", f"{device} is listed twice"))
        return problems
