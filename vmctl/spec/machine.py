"""The spec of one machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field

from vmctl.errors import SpecProblem
from vmctl.spec.balloon import BalloonSpec
from vmctl.spec.boot import BootSpec
from vmctl.spec.clock import ClockSpec
from vmctl.spec.cloud_init import CloudInitSpec
from vmctl.spec.cpu import CpuSpec
from vmctl.spec.disk import DiskSpec
from vmctl.spec.document import SpecDocument
from vmctl.spec.firmware import FirmwareSpec
from vmctl.spec.graphics import GraphicsSpec
from vmctl.spec.input import InputSpec
from vmctl.spec.launch_security import LaunchSecuritySpec
from vmctl.spec.lifecycle import CrashAction, EndAction, PanicSpec
from vmctl.spec.media import CdromSpec, FloppySpec
from vmctl.spec.names import MachineName, TenantName
from vmctl.spec.nic import NicSpec
from vmctl.spec.platforms import Arch
from vmctl.spec.profiles import ProfileName
from vmctl.spec.rng import RngSpec
from vmctl.spec.serial import ConsoleSpec, SerialSpec
from vmctl.spec.share import ShareSpec
from vmctl.spec.sizes import Size
from vmctl.spec.sound import SoundSpec
from vmctl.spec.text import LongLine
from vmctl.spec.video import VideoSpec
from vmctl.spec.watchdog import WatchdogSpec

__all__ = ["Accel", "VMSpec"]


class Accel(StrEnum):
    """Who runs the guest's instructions."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


def _none_is_empty(value: Any) -> Any:
    return () if value is None else value


def _label_values(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > 64:
        raise ValueError("a machine has at most 64 labels")
    return labels


_Count = Annotated[int, Field(ge=1, le=4096)]
_MachineType = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_LabelName = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
_LabelValue = Annotated[
    str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]*$")
]
_Null = BeforeValidator(_none_is_empty)


class VMSpec(SpecDocument):
    """What one machine shall be.

    A field that is not written is decided by the ``profile``. A device that is written as null, or
    a list that is written as empty, is one that the machine shall not have.

    Raises:
        SpecError: Something in it is not valid; ``problems`` has all of it, each with its path.
    """

    name: MachineName
    """The machine's name: 1 to 63 letters, digits, '.', '_' and '-'."""
    profile: ProfileName = ProfileName.MODERN
    """Who decides what is not written: `modern`, `legacy` or `isolated`."""
    tenant: TenantName | None = None
    """Whose it is: it uses networks and images of this tenant's, and those for everybody."""
    image: LongLine | None = None
    """What the first disk is a linked clone of: the path of a qcow2 file."""
    arch: Arch = Arch.X86_64
    """The guest's architecture."""
    machine: _MachineType | None = None
    """The machine type: q35, pc, isapc, virt, or one with a version (`pc-q35-7.2`)."""
    accel: Accel = Accel.AUTO
    """Who runs the guest's instructions: KVM where it really works, or as it is said here."""
    vcpus: _Count = 1
    """Number of virtual processors."""
    max_vcpus: _Count | None = None
    """How many processors there can be after plugging in; vcpus when it is not given."""
    cpu: CpuSpec = CpuSpec()
    """The processor's model, features and arrangement."""
    memory: Size = Size("1GiB")
    """The guest's memory, with a unit."""
    max_memory: Size | None = None
    """How much memory there can be after plugging in; none can be plugged in when not given."""
    merge_pages: bool = True
    """Whether the host may keep memory that is equal in several guests only once."""
    firmware: FirmwareSpec = FirmwareSpec()
    """What it starts with: `bios`, or `uefi`, with or without secure boot and TPM."""
    launch_security: LaunchSecuritySpec | None = None
    """What encrypts its memory, so that the host can't read it."""
    confined: bool = False
    """Whether QEMU gets a security label of its own by all that the host has for that."""
    boot: BootSpec = BootSpec()
    """Boot order, or a kernel to boot directly."""
    disks: Annotated[tuple[DiskSpec, ...], _Null] = ()
    """Disks; with an image and no list there is one."""
    cdroms: Annotated[tuple[CdromSpec, ...], _Null] = ()
    """CD-ROM drives, beside the one that cloud-init's seed is in."""
    floppies: Annotated[tuple[FloppySpec, ...], _Null] = ()
    """Floppy drives, two at most."""
    nics: Annotated[tuple[NicSpec, ...], _Null] = ()
    """Network interfaces; when the list is not written, one on the network `default`."""
    serials: Annotated[tuple[SerialSpec, ...], _Null] = ()
    """Serial ports, four at most."""
    console: ConsoleSpec | None = None
    """The console."""
    video: VideoSpec | None = None
    """The graphics adapter."""
    graphics: Annotated[tuple[GraphicsSpec, ...], _Null] = ()
    """Graphics servers, by which a person sees the screen."""
    inputs: Annotated[tuple[InputSpec, ...], _Null] = ()
    """Input devices."""
    sound: SoundSpec | None = None
    """The sound card."""
    rng: RngSpec | None = None
    """The random number device."""
    watchdog: WatchdogSpec | None = None
    """The watchdog."""
    panic: PanicSpec | None = None
    """The device by which the guest's kernel says that it crashed."""
    on_crash: CrashAction = CrashAction.DESTROY
    """What follows when the guest crashes, as its panic device says."""
    on_reboot: EndAction = EndAction.RESTART
    """What follows when the guest reboots."""
    on_poweroff: EndAction = EndAction.DESTROY
    """What follows when the guest powers off by itself."""
    balloon: BalloonSpec | None = None
    """The memory balloon."""
    shares: Annotated[tuple[ShareSpec, ...], _Null] = ()
    """Folders of the host that the guest can mount."""
    agent: bool = False
    """Whether there is a channel for the QEMU guest agent."""
    clock: ClockSpec = ClockSpec()
    """The hardware clock."""
    labels: Annotated[dict[_LabelName, _LabelValue], AfterValidator(_label_values)] = Field(
        default_factory=dict
    )
    """Labels to find the machine by."""
    autostart: bool = False
    """Whether the machine starts together with its host."""
    cloud_init: CloudInitSpec | None = None
    """How cloud-init provisions the guest; null switches it off."""

    def resolved(self, *, networks: bool = True) -> VMSpec:
        """Fill in everything that the profile decides; doing it again changes nothing.

        What depends on the host's accelerator (the CPU's mode) stays open until it is rendered.

        Args:
            networks: Whether the host has virtual networks. Without them (a session's libvirt) a
                spec that lists no NICs gets one in user mode.
        """
        from vmctl.spec.defaults import fill_in  # noqa: PLC0415 - it needs this class

        return fill_in(self, networks=networks)

    def _problems(self) -> list[SpecProblem]:
        from vmctl.spec.checks import check_together  # noqa: PLC0415 - it needs this class

        return check_together(self)

    def __eq__(self, other: object) -> bool:
        """Two specs are equal when they say the same; what is written counts, not defaults."""
        if not isinstance(other, VMSpec):
            return NotImplemented
        return self.model_fields_set == other.model_fields_set and super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Rebuild a spec from what `without_secrets` gave; the secrets are missing in it.

        Raises:
            SpecError: The record is not a valid spec.
        """
        return cls.model_validate({key: record[key] for key in record if key != "redacted"})

    def without_secrets(self) -> dict[str, Any]:
        """Give what is written in the spec, ready for JSON, without anything that may be secret.

        Left out are passwords, their hashes, the contents of files, commands, and raw cloud-config.
        ``redacted`` has the paths of what was left out.
        """
        from vmctl.spec.writing import without_secrets  # noqa: PLC0415 - it needs this class

        return without_secrets(self)
