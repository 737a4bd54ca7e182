"""What a file would become: a disk, or a package of another hypervisor's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vmctl import launch
from vmctl.errors import ImageError
from vmctl.imaging import ova
from vmctl.imaging.inspection import Image, inspect
from vmctl.imaging.ovf_spec import machine_name, map_appliance
from vmctl.imaging.qemu_img import convert
from vmctl.networking.taken import macs_in_use
from vmctl.progress import Phase
from vmctl.spec import VMSpec

__all__ = ["Disk", "Incoming", "Opened", "Package", "called"]


# Disks that QEMU wrote ran on virtio; guests of others have no driver for it for sure.
_FROM_QEMU = frozenset({"qcow2", "raw"})


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """What a file would become.

    Attributes:
        kind: ``bundle``, ``ova``, or the format of a disk.
        spec: The machine's spec.
        warnings: One sentence for each thing that is not as it was, or isn't known.
    """

    kind: str
    spec: VMSpec
    warnings: tuple[str, ...]


class Opened:
    """A file that was looked into."""

    kind = ""

    def mapped(self, name: str | None) -> tuple[VMSpec, tuple[str, ...]]:
        """Return the machine's spec, and what is not as it was; ``name`` replaces its own."""
        raise NotImplementedError

    def disks(self, scratch: Path, phase: Phase) -> tuple[Image | None, ...]:
        """Write the content of each disk into a folder; None for a blank one.

        Raises:
            ImageError: It is damaged, or not safe.
            ResourceError: There is no room for it.
        """
        raise NotImplementedError

    def known(self) -> dict[str, str]:
        """Return what is known of how to reach the guest, as `Imported` has it."""
        return {}

    def nvram(self) -> Path | None:
        """Return the file with UEFI's variables, after `disks`; None where there is none."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened for it."""

    def finished(self, spec: VMSpec) -> VMSpec:
        """Return the spec with what only the unpacked files could say."""
        return spec

    def incoming(
        self, name: str | None, spec: VMSpec | None, around: launch.Surroundings
    ) -> Incoming:
        """Return what it would become at a host; ``spec`` is used instead of its own."""
        own, warnings = self.mapped(name)
        if spec is not None:
            own, warnings = (spec if name is None else spec.replace(name=name)), ()
        own, more = _without_taken_macs(own, around)
        return Incoming(kind=self.kind, spec=own, warnings=(*warnings, *more))


def _without_taken_macs(
    spec: VMSpec, around: launch.Surroundings
) -> tuple[VMSpec, tuple[str, ...]]:
    """Leave MAC addresses out that a machine of the host has already."""
    taken = macs_in_use(around.connection)
    nics, warnings = [], []
    for number, nic in enumerate(spec.nics):
        if nic.mac is None or nic.mac not in taken:
            nics.append(nic)
            continue
        warnings.append(
            f"nics[{number}] had the MAC address {nic.mac}, which is {taken[nic.mac]}'s here; "
            "it gets another, and a guest that knows its NIC by the old one has no network"
        )
        nics.append(nic.replace(mac=None))
    return (spec.replace(nics=tuple(nics)) if warnings else spec), tuple(warnings)


class Disk(Opened):
    """A disk that was looked at."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self.kind = image.format

    def mapped(self, name: str | None) -> tuple[VMSpec, tuple[str, ...]]:
        """Return the machine's spec, and what is not as it was; ``name`` replaces its own."""
        disk: dict[str, Any] = {"size": f"{self._image.virtual_size}B"}
        data: dict[str, Any] = {"name": name or machine_name(self._image.path.stem)}
        warnings = ("a disk says nothing of its machine: see whether this spec fits the guest",)
        if self.kind not in _FROM_QEMU:
            disk["bus"] = "sata"
            data["nics"] = [{"network": "default", "model": "e1000e"}]
        data |= {"disks": [disk], "cloud_init": None}
        return VMSpec.model_validate(data), warnings

    def disks(self, scratch: Path, phase: Phase) -> tuple[Image | None, ...]:
        """Unpack, or convert, all of them."""
        return (_own_copy(self._image, scratch / "disk-0.qcow2", phase),)


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """Say of an unpacked file that is refused what it was: nobody knows the file's own path."""
    try:
        yield
    except ImageError as error:
        raise ImageError(
            f"{name} is not fit to be imported",
            details=str(error).replace(repr(str(path)), "it"),
            hint="see what made it, and export the machine there again",
        ) from error


def _own_copy(image: Image, target: Path, phase: Phase) -> Image:
    """Write an image anew as flat qcow2, which nobody else writes to."""
    convert(image, target, "qcow2", options="compat=1.1", phase=phase)
    return inspect(target, format="qcow2")


class Package(Opened):
    """An OVA, or an OVF with its disks."""

    kind = "ova"

    def __init__(self, package: ova.Package) -> None:
        self._package = package

    def mapped(self, name: str | None) -> tuple[VMSpec, tuple[str, ...]]:
        """Return the machine's spec, and what is not as it was; ``name`` replaces its own."""
        found = map_appliance(self._package.appliance, name=name)
        return found.spec, (*self._package.warnings, *found.warnings)

    def disks(self, scratch: Path, phase: Phase) -> tuple[Image | None, ...]:
        """Unpack, or convert, all of them."""
        found: list[Image | None] = []
        for number, disk in enumerate(self._package.appliance.disks):
            if not disk.file:
                found.append(None)
                continue
            taken = scratch / f"taken-{number}"
            self._package.take(disk, taken, phase=phase)
            with called(taken, f"the disk {disk.file!r} in {self._package.name!r}"):
                image = inspect(taken, format=disk.format, phase=phase)
                found.append(_own_copy(image, scratch / f"disk-{number}.qcow2", phase))
            taken.unlink()
        return tuple(found)
