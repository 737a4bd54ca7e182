"""Drives whose medium can be changed: CD-ROMs and floppies."""

from __future__ import annotations

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.disk import DiskBus, DiskFormat, TargetName, VolumeName
from vmctl.spec.text import LongLine

__all__ = ["CdromSpec", "FloppySpec"]


def _one_medium(path: str | None, volume: str | None) -> list[SpecProblem]:
    if path is not None and volume is not None:
        return [SpecProblem("volume", "a drive holds one medium: give path or volume")]
    return []


class CdromSpec(SpecModel):
    """A CD-ROM drive; with neither path nor volume it is empty."""

    short_form = "path"

    path: LongLine | None = None
    """An ISO image on the machine that vmctl runs on; it is uploaded to the host."""
    volume: VolumeName | None = None
    """An ISO image that the host has: a volume's name, or `pool/name`."""
    bus: DiskBus | None = None
    """What the drive is attached to: sata, scsi, ide or usb."""
    target: TargetName | None = None
    """The name on the bus (`hdc`); the first that is free when it is not given."""

    def _problems(self) -> list[SpecProblem]:
        problems = _one_medium(self.path, self.volume)
        if self.bus in {DiskBus.VIRTIO, DiskBus.FDC}:
            problems.append(SpecProblem("bus", f"there are no CD-ROM drives on {self.bus}"))
        return problems


class FloppySpec(SpecModel):
    """A floppy drive; with neither path nor volume it is empty."""

    short_form = "path"

    path: LongLine | None = None
    """A floppy image on the machine that vmctl runs on; it is uploaded to the host."""
    volume: VolumeName | None = None
    """A floppy image that the host has: a volume's name, or `pool/name`."""
    format: DiskFormat | None = None
    """How the image is written; raw when it is not given."""
    read_only: bool = False
    """Whether the medium is write-protected."""

    def _problems(self) -> list[SpecProblem]:
        return _one_medium(self.path, self.volume)
