"""Where on the host a machine's parts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vmctl.errors import UsageError
from vmctl.render.sources import DiskSource
from vmctl.spec import VMSpec

__all__ = ["Placement"]

_HINT = "make it by `vmctl.plan` or `vmctl.preview`, which fit it to the spec"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What a domain's XML says of the host's files; every path is one on the host.

    Attributes:
        uuid: The machine's UUID.
        disks: What each of the spec's disks is, in order: the path of a file, or what else it is;
            None where the spec itself names a server.
        disk_formats: How each of them is written (``qcow2``, ``raw``), in order.
        cdroms: Path of the medium in each CD-ROM drive, None for an empty one.
        floppies: Path of the medium in each floppy drive, None for an empty one.
        has_seed: Whether there is a drive for the cloud-init seed.
        seed: Path of the seed's ISO image; None when the drive is empty.
        console_log: File that the first serial port is written to; None for no log.
        kernel: Path of the kernel to boot directly.
        initrd: Path of its initial RAM disk.
        nvram: Path of the file with UEFI's variables, which libvirt makes if it isn't there; None
            for one in libvirt's own folder.
        addresses: Addresses that NICs have besides those in the spec, by MAC address: what their
            networks keep for them.
        metadata: A ready XML element to put inside ``<metadata>``; it is trusted.
    """

    uuid: str
    disks: tuple[str | DiskSource | None, ...] = ()
    disk_formats: tuple[str, ...] = ()
    cdroms: tuple[str | DiskSource | None, ...] = ()
    floppies: tuple[str | DiskSource | None, ...] = ()
    has_seed: bool = False
    seed: str | None = None
    console_log: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    nvram: str | None = None
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    metadata: str = ""

    def check(self, spec: VMSpec) -> None:
        """See that there is a place for everything in the resolved spec.

        Raises:
            UsageError: Something is missing, or too much.
        """
        counts = (
            ("disks", len(spec.disks), len(self.disks)),
            ("disk_formats", len(spec.disks), len(self.disk_formats)),
            ("cdroms", len(spec.cdroms), len(self.cdroms)),
            ("floppies", len(spec.floppies), len(self.floppies)),
        )
        for name, wanted, given in counts:
            if wanted != given:
                raise UsageError(
                    f"the placement has {given} {name}, the spec has {wanted}", hint=_HINT
                )
        if self.seed is not None and not self.has_seed:
            raise UsageError("the placement has a seed, and no drive for it", hint=_HINT)
        if self.has_seed and spec.cloud_init is None:
            raise UsageError(
                "the placement has a drive for a seed, the spec has no cloud_init", hint=_HINT
            )
        if (self.kernel is None) != (spec.boot.kernel is None):
            raise UsageError(
                "the placement and the spec must both have a kernel, or neither", hint=_HINT
            )
        if (self.initrd is None) != (spec.boot.initrd is None):
            raise UsageError(
                "the placement and the spec must both have an initrd, or neither", hint=_HINT
            )
