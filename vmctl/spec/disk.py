"""Disks."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.limits import IoTuneSpec
from vmctl.spec.network_disk import NetworkDiskSpec
from vmctl.spec.sizes import Size
from vmctl.spec.text import LongLine

__all__ = [
    "Discard",
    "DiskBus",
    "DiskCache",
    "DiskFormat",
    "DiskIo",
    "DiskSpec",
    "SerialNumber",
    "TargetName",
    "VolumeName",
]


class DiskBus(StrEnum):
    """What a disk is attached to."""

    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"
    USB = "usb"
    FDC = "fdc"


class DiskFormat(StrEnum):
    """How a volume is written."""

    QCOW2 = "qcow2"
    RAW = "raw"


class DiskCache(StrEnum):
    """libvirt's cache modes (https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms)."""

    NONE = "none"
    WRITETHROUGH = "writethrough"
    WRITEBACK = "writeback"
    DIRECTSYNC = "directsync"
    UNSAFE = "unsafe"


class DiskIo(StrEnum):
    """How QEMU reads and writes."""

    NATIVE = "native"
    THREADS = "threads"
    IO_URING = "io_uring"


class Discard(StrEnum):
    """Whether the guest's trim gives space back to the host."""

    UNMAP = "unmap"
    IGNORE = "ignore"


SerialNumber = Annotated[
    str,
    Field(
        min_length=1,
        max_length=20,
        pattern=r"^[A-Za-z0-9_.+-]([A-Za-z0-9_.+ -]*[A-Za-z0-9_.+-])?$",
    ),
]
"""At most 20 characters, which is what virtio and ATA carry."""

TargetName = Annotated[str, Field(pattern=r"^(vd|sd|hd)[a-z]{1,2}$|^fd[ab]$")]
"""A device's name on its bus: ``vda``, ``sdb``, ``hdc``, ``fda``."""

VolumeName = LongLine
"""``NAME`` in the default pool, ``POOL/NAME``, or an absolute path on the host."""


class DiskSpec(SpecModel):
    """One disk: a linked clone of an image, an existing volume, a server's, or blank.

    The first disk of a machine with an ``image`` is the clone of that image.
    """

    size: Size | None = None
    """The disk's size, with a unit; a clone without one is as large as its image."""
    image: LongLine | None = None
    """An image of its own that this disk is a linked clone of: an alias, a path or a URL."""
    full_clone: bool = False
    """Whether it is a copy of its image that stands alone, and not a linked clone on top of it."""
    volume: VolumeName | None = None
    """An existing volume to attach: a name, or `pool/name`. vmctl never deletes it."""
    network: NetworkDiskSpec | None = None
    """A disk that a server has: an NBD export, an iSCSI LUN, an RBD image. It stays there."""
    format: DiskFormat | None = None
    """How the volume is written. An existing one that is not qcow2, as a LUN is, must say it."""
    bus: DiskBus | None = None
    """What the disk is attached to."""
    cache: DiskCache | None = None
    """The cache mode; the hypervisor's own default when it is not given."""
    discard: Discard | None = None
    """Whether the guest's trim gives space back to the host."""
    io: DiskIo | None = None
    """How QEMU reads and writes; `native` needs `cache` none or directsync."""
    serial: SerialNumber | None = None
    """The serial number that the guest sees, for `/dev/disk/by-id`."""
    read_only: bool = False
    """Whether the guest may only read; for an existing volume."""
    target: TargetName | None = None
    """The name on the bus (`vdb`); the first that is free when it is not given."""
    iotune: IoTuneSpec | None = None
    """How much of the disk the guest may use in a second."""

    def _problems(self) -> list[SpecProblem]:
        problems = []
        if self.volume is not None and self.image is not None:
            problems.append(
                SpecProblem("volume", "a disk is an existing volume or a clone of an image")
            )
        if self.volume is not None and self.size is not None:
            problems.append(
                SpecProblem("size", "an existing volume has its size already; leave size out")
            )
        if self.full_clone and (self.volume is not None or self.network is not None):
            problems.append(SpecProblem("full_clone", "only a clone of an image can be a full one"))
        problems += self._network_problems()
        if self.read_only and self.volume is None and self.network is None:
            problems.append(
                SpecProblem("read_only", "only an existing volume makes sense as a read-only disk")
            )
        if self.read_only and self.bus in {DiskBus.IDE, DiskBus.SATA}:
            problems.append(SpecProblem("read_only", f"a disk on {self.bus} can't be read-only"))
        if self.bus is DiskBus.FDC:
            problems.append(SpecProblem("bus", "fdc is for floppies; list it under floppies"))
        if self.io is DiskIo.NATIVE and self.cache not in {DiskCache.NONE, DiskCache.DIRECTSYNC}:
            problems.append(SpecProblem("io", "native needs cache: none or cache: directsync"))
        return problems

    def _network_problems(self) -> list[SpecProblem]:
        if self.network is None:
            return []
        given = [name for name in ("image", "volume", "size") if getattr(self, name) is not None]
        problems = [SpecProblem(name, "a server's disk has its own") for name in given]
        if self.format is DiskFormat.QCOW2:
            # Its header could name any file of the host, and be another one at each start.
            problems.append(SpecProblem("format", "a server's disk is raw; leave format out"))
        return problems
