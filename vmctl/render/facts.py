"""What rendering has to know of the host, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["FirmwareImage", "HostFacts"]


@dataclass(frozen=True, kw_only=True)
class FirmwareImage:
    """A UEFI firmware that the host offers.

    Attributes:
        loader: Path of the read-only code, on the host.
        nvram_template: Path of the variable store that a new machine's own is copied from.
        secure_boot: Whether it enforces secure boot (needs SMM, and a store with enrolled keys).
    """

    loader: str
    nvram_template: str
    secure_boot: bool = False


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """What one host can do, as far as the documents that are rendered for it depend on it.

    Attributes:
        arch: libvirt's name of the host's architecture, ``x86_64``.
        libvirt_version: (major, minor, release).
        qemu_version: (major, minor, release).
        kvm: Whether KVM really works, not merely whether ``/dev/kvm`` opens.
        kvm_offered: Whether libvirt offers KVM, working or not, for those who ask for it.
        kvm_reason: One sentence on why ``kvm`` is what it is.
        emulators: Architecture of a guest to the emulator's path on the host.
        machines: Architecture of a guest to the machine types the host knows, aliases included
            (``q35``, ``pc``, ``pc-q35-7.2``).
        firmware: The UEFI images for the host's own architecture.
        tpm: Whether an emulated TPM can be given to a guest.
        features: Names of further abilities (``spice``, ``virtio-mem``, ``virtiofs``, ``9p``,
            ``internal-snapshot-nvram``, ``sev``, ``sev-snp``, ``tdx``).
        lacking: What is known to be missing on it otherwise: ``shaping`` of what NICs carry,
            ``cpu-limits``, ``bridge-filters``.
        security_models: What labels QEMU's processes: ``selinux``, ``apparmor``, ``dac``.
        memory: The host's memory in bytes.
        cpus: The host's number of processors.
        privileged: Whether it is the system's libvirt; a session's has no networks of its own.
    """

    arch: str = "x86_64"
    libvirt_version: tuple[int, int, int] = (9, 0, 0)
    qemu_version: tuple[int, int, int] = (7, 2, 0)
    kvm: bool = False
    kvm_offered: bool = False
    kvm_reason: str = ""
    emulators: dict[str, str] = field(default_factory=dict)
    machines: dict[str, tuple[str, ...]] = field(default_factory=dict)
    firmware: tuple[FirmwareImage, ...] = ()
    tpm: bool = False
    features: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()
    security_models: tuple[str, ...] = ()
    memory: int = 0
    cpus: int = 1
    privileged: bool = True
