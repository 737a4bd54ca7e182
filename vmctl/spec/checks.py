"""What is wrong with a machine's fields together.

Each check sees the spec with its profile's defaults filled in, and speaks in the spec's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vmctl.errors import SpecProblem
from vmctl.spec.checks_devices import check_devices
from vmctl.spec.checks_drives import check_drives
from vmctl.spec.checks_nics import check_nics
from vmctl.spec.firmware import FirmwareType
from vmctl.spec.platforms import Arch, Platform, platform_of
from vmctl.spec.profiles import profile_for
from vmctl.spec.sizes import Size

if TYPE_CHECKING:
    from vmctl.spec.machine import VMSpec

__all__ = ["check_together"]

_Check = Callable[["VMSpec", Platform], Iterator[SpecProblem]]
_LEAST_MEMORY = Size("1MiB")
_LEAST_MODERN_MEMORY = Size("16MiB")


def check_together(spec: VMSpec) -> list[SpecProblem]:
    """Find every problem that several fields of the spec make together."""
    if profile_for(spec.profile, spec.arch) is None:
        return [SpecProblem("profile", f"{spec.profile} has no machine for {spec.arch}")]
    resolved = spec.resolved()
    platform = platform_of(resolved.arch, resolved.machine or "")
    if platform is None:
        kinds = "virt" if resolved.arch == "aarch64" else "q35, pc and isapc"
        return [
            SpecProblem(
                "machine",
                f"{spec.machine} is not a machine type for {spec.arch}; there are {kinds}, "
                "and those with a version",
            )
        ]
    return [problem for check in _CHECKS for problem in check(resolved, platform)]


def _check_processors(spec: VMSpec, platform: Platform) -> Iterator[SpecProblem]:
    highest = spec.max_vcpus or spec.vcpus
    if highest < spec.vcpus:
        yield SpecProblem("max_vcpus", f"{highest} is less than vcpus, which is {spec.vcpus}")
    topology = spec.cpu.topology
    if topology is not None and topology.total != highest:
        name = "max_vcpus" if highest > spec.vcpus else "vcpus"
        yield SpecProblem(
            "cpu.topology",
            f"{topology.sockets} sockets x {topology.dies} dies x {topology.cores} cores x "
            f"{topology.threads} threads make {topology.total} processors, and {name} is {highest}",
        )
    if not platform.pci and highest > 1:
        yield SpecProblem("vcpus", f"a machine of type {platform.name} has one processor")


def _check_memory(spec: VMSpec, platform: Platform) -> Iterator[SpecProblem]:
    least = _LEAST_MODERN_MEMORY if platform.pci else _LEAST_MEMORY
    if spec.memory < least:
        yield SpecProblem("memory", f"{spec.memory} is less than {least}, too little to start with")
    for name in ("memory", "max_memory"):
        size = getattr(spec, name)
        if size is not None and int(size) % 1024:
            yield SpecProblem(name, f"{size} is not a whole number of KiB")
    if spec.max_memory is None:
        return
    if spec.max_memory < spec.memory:
        yield SpecProblem(
            "max_memory", f"{spec.max_memory} is less than memory, which is {spec.memory}"
        )
    if not platform.acpi and not platform.pcie:
        yield SpecProblem(
            "max_memory", f"memory can't be plugged into a machine of type {platform.name}"
        )


def _check_firmware(spec: VMSpec, platform: Platform) -> Iterator[SpecProblem]:
    firmware = spec.firmware
    uefi = firmware.type is FirmwareType.UEFI
    if uefi and not platform.uefi:
        yield SpecProblem("firmware.type", f"there is no UEFI for machine type {platform.name}")
    if not uefi and not platform.bios and spec.boot.kernel is None:
        yield SpecProblem("firmware.type", f"there is no BIOS for machine type {platform.name}")
    if firmware.secure_boot and not uefi:
        yield SpecProblem("firmware.secure_boot", "needs UEFI; write type: uefi")
    elif firmware.secure_boot and platform.name != "q35":
        yield SpecProblem(
            "firmware.secure_boot", f"needs machine type q35, and this is {platform.name}"
        )
    if firmware.tpm is not None and firmware.tpm not in dict(platform.tpm_models):
        yield SpecProblem(
            "firmware.tpm", f"there is no TPM {firmware.tpm} for machine type {platform.name}"
        )
    elif firmware.tpm == "1.2" and uefi:
        yield SpecProblem("firmware.tpm", "UEFI speaks to TPM 2.0 only; write tpm: '2.0'")


def _check_boot(spec: VMSpec, _platform: Platform) -> Iterator[SpecProblem]:
    have = {
        "disk": bool(spec.disks),
        "cdrom": bool(spec.cdroms) or spec.cloud_init is not None,
        "floppy": bool(spec.floppies),
        "network": bool(spec.nics),
    }
    for index, device in enumerate(spec.boot.order or ()):
        if not have[device]:
            yield SpecProblem(f"boot.order[{index}]", f"there is no {device} in this spec")


def _check_launch_security(spec: VMSpec, platform: Platform) -> Iterator[SpecProblem]:
    if spec.launch_security is None:
        return
    kind = spec.launch_security.type
    if spec.arch is not Arch.X86_64 or platform.name != "q35":
        yield SpecProblem("launch_security", f"{kind} needs an x86_64 machine of type q35")
    elif spec.firmware.type is not FirmwareType.UEFI:
        yield SpecProblem("launch_security", f"{kind} needs UEFI; write `firmware: uefi`")
    if spec.accel == "tcg":
        yield SpecProblem("launch_security", f"{kind} needs KVM, and accel is tcg")
    if spec.max_memory is not None:
        yield SpecProblem("launch_security", "memory can't be plugged in; leave out max_memory")


_CHECKS: tuple[_Check, ...] = (
    _check_processors,
    _check_memory,
    _check_firmware,
    _check_boot,
    _check_launch_security,
    check_drives,
    check_nics,
    check_devices,
)
