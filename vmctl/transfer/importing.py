"""A machine in from a file: looked at, mapped to a spec, and made as a launch makes one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from vmctl import launch
from vmctl.errors import ImageError, NotFoundError, SpecError, UnsupportedError, UsageError
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.names import find, list_domains, name_is_taken
from vmctl.hypervisor.pools import open_pool
from vmctl.imaging import bundle, ova
from vmctl.imaging.conversion import check_once
from vmctl.imaging.inspection import Image, inspect
from vmctl.imaging.nvram import check_nvram
from vmctl.imaging.ovf_spec import machine_name, map_appliance
from vmctl.imaging.qemu_img import convert, run_limited
from vmctl.imaging.reading import opened, reading
from vmctl.imaging.scratch import scratch_folder
from vmctl.plan import Imported
from vmctl.progress import Phase, ProgressCallback, Reporter
from vmctl.render.choices import choose_firmware
from vmctl.spec import FirmwareType, VMSpec

__all__ = ["Incoming", "import_machine", "preview"]

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


Review = Callable[[Incoming], None]


def preview(
    source: Path, *, name: str | None, form: str | None, around: launch.Surroundings
) -> Incoming:
    """Say what a file would become; see `Host.preview_import`."""
    with _open(source, form, Reporter(name or source.name, None)) as opened:
        return opened.incoming(name, None, around)


def import_machine(
    source: Path | BinaryIO,
    *,
    name: str | None,
    form: str | None,
    spec: VMSpec | None,
    review: Review | None,
    around: launch.Surroundings,
    progress: ProgressCallback | None,
) -> Domain:
    """Make a machine of a file; see `Host.import_machine`."""
    label = name or (source.name if isinstance(source, Path) else "stdin")
    reporter = Reporter(label, progress)
    if isinstance(source, Path):
        opened = _open(source, form, reporter)
    elif form in {None, "bundle"}:
        opened = _Bundle(source, "stdin")
    else:
        raise UsageError(f"{form} can't be read as a stream", hint="give the path of a file")
    with opened:
        found = opened.incoming(name, spec, around)
        _refuse_taken_name(found.spec.name, around)
        if review is not None:
            review(found)
        with scratch_folder() as scratch:
            with reporter.phase("image") as phase:
                disks = opened.disks(scratch, phase)
                wanted, files = _fit(found.spec, disks)
            _refuse_without_room(files, around)
            imported = Imported(disks=files, nvram=opened.nvram(), **opened.known())
            made = launch.create(
                opened.finished(wanted), around, progress=progress, imported=imported
            )
        return made.domain


def _refuse_taken_name(name: str, around: launch.Surroundings) -> None:
    try:
        find(around.connection, name)
    except NotFoundError:
        return
    raise name_is_taken(name)


def _refuse_without_room(files: tuple[Image | None, ...], around: launch.Surroundings) -> None:
    pool = open_pool(around.connection, around.pool)
    pool.refresh()
    size = sum(file.size for file in files if file is not None)
    if pool.available() < size:
        raise pool.no_room(f"for the machine's disks ({size} bytes)")


def _fit(spec: VMSpec, disks: tuple[Image | None, ...]) -> tuple[VMSpec, tuple[Image | None, ...]]:
    """Give each disk its size: that of its image, or the larger one that the spec asks for."""
    if len(spec.disks) != len(disks):
        raise UsageError(
            f"the spec has {len(spec.disks)} disks, and what is imported has {len(disks)}",
            hint="list as many disks as there are; `--dry-run` prints a spec to begin with",
        )
    changed = []
    files: list[Image | None] = []
    for number, (disk, image) in enumerate(zip(spec.disks, disks, strict=True)):
        if image is None:
            changed.append(disk)
            files.append(None)
            continue
        grown = _grown(image, int(disk.size or 0), number)
        changed.append(disk.replace(size=f"{grown.virtual_size}B", image=None))
        files.append(grown)
    return spec.replace(image=None, disks=tuple(changed)), tuple(files)


def _grown(image: Image, size: int, number: int) -> Image:
    if image.virtual_size > size > 0:
        raise SpecError(
            f"disks[{number}] is {size} bytes, and its content {image.virtual_size}",
            hint="leave its size out, or make it at least as large as it was",
        )
    if size <= image.virtual_size:
        return image
    run_limited(["resize", "-f", "qcow2", str(image.path), str(size)], size=size)
    return inspect(image.path, format="qcow2")


class _Opened:
    """A file that was looked into."""

    kind = ""

    def mapped(self, name: str | None) -> tuple[VMSpec, tuple[str, ...]]:
        raise NotImplementedError

    def disks(self, scratch: Path, phase: Phase) -> tuple[Image | None, ...]:
        raise NotImplementedError

    def known(self) -> dict[str, str]:
        return {}

    def nvram(self) -> Path | None:
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
        own, warnings = self.mapped(name)
        if spec is not None:
            own, warnings = (spec if name is None else spec.replace(name=name)), ()
        own, more = _without_taken_macs(own, around)
        return Incoming(kind=self.kind, spec=own, warnings=(*warnings, *more))


def _without_taken_macs(
    spec: VMSpec, around: launch.Surroundings
) -> tuple[VMSpec, tuple[str, ...]]:
    """Leave MAC addresses out that a machine of the host has already."""
    taken = {
        nic.get("mac"): listed.domain.name
        for listed in list_domains(around.connection)
        if listed.record is not None
        for nic in listed.record.spec.get("nics") or ()
    }
    nics, warnings = [], []
    for number, nic in enumerate(spec.nics):
        if nic.mac is None or nic.mac not in taken:
            nics.append(nic)
            continue
        warnings.append(
            f"nics[{number}] had the MAC address {nic.mac}, which is {taken[nic.mac]}'s here; "
            "it gets another"
        )
        nics.append(nic.replace(mac=None))
    return (spec.replace(nics=tuple(nics)) if warnings else spec), tuple(warnings)


def _open(source: Path, form: str | None, reporter: Reporter) -> _Opened:
    with opened(source) as file, reading(source):
        start = file.read(512)
    if form == "bundle" or (form is None and bundle.is_bundle(start)):
        return _Bundle(source.open("rb"), str(source), owned=True)
    if form in {"ova", "ovf"} or (form is None and _is_package(start)):
        return _Package(ova.read_package(source))
    with reporter.phase("image") as phase:
        return _Disk(inspect(source, format={"vhd": "vpc"}.get(form or "", form), phase=phase))


def _is_package(start: bytes) -> bool:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return start[257:262] == b"ustar" or text.startswith((b"<?xml", b"<Envelope", b"<ovf:"))


class _Disk(_Opened):
    def __init__(self, image: Image) -> None:
        self._image = image
        self.kind = image.format

    def mapped(self, name: str | None) -> tuple[VMSpec, tuple[str, ...]]:
        disk: dict[str, Any] = {"size": f"{self._image.virtual_size}B"}
        data: dict[str, Any] = {"name": name or machine_name(self._image.path.stem)}
        warnings = ("a disk says nothing of its machine: see whether this spec fits the guest",)
        if self.kind not in _FROM_QEMU:
            disk["bus"] = "sata"
            data["nics"] = [{"network": "default", "model": "e1000e"}]
        data |= {"disks": [disk], "cloud_init": None}
        return VMSpec.model_validate(data), warnings

    def disks(self, scratch: Path, phase: Phase) -> tuple[Image | None, ...]:
        return (_own_copy(self._image, scratch / "disk-0.qcow2", phase),)


def _own_copy(image: Image, target: Path, phase: Phase) -> Image:
    """Write an image anew as flat qcow2, which nobody else writes to."""
    convert(image, target, "qcow2", options="compat=1.1", phase=phase)
    return inspect(target, format="qcow2")


class _Package(_Opened):
    kind = "ova"

    def __init__(self, package: ova.Package) -> None:
        self._package = package

    def mapped(self, name: str | None) -> tuple[VMSpec, tuple[str, ...]]:
        found = map_appliance(self._package.appliance, name=name)
        return found.spec, (*self._package.warnings, *found.warnings)

    def disks(self, scratch: Path, phase: Phase) -> tuple[Image | None, ...]:
        found: list[Image | None] = []
        for number, disk in enumerate(self._package.appliance.disks):
            if not disk.file:
                found.append(None)
                continue
            taken = scratch / f"taken-{number}"
            self._package.take(disk, taken, phase=phase)
            image = inspect(taken, format=disk.format, phase=phase)
            found.append(_own_copy(image, scratch / f"disk-{number}.qcow2", phase))
            taken.unlink()
        return tuple(found)


class _Bundle(_Opened):
    kind = "bundle"

    def __init__(self, source: BinaryIO, name: str, *, owned: bool = False) -> None:
        self._file = source if owned else None
        try:
            self._reader = bundle.Reader(source, name=name)
        except BaseException:
            self.close()
            raise
        self._manifest = self._reader.manifest
        self._boot: dict[str, Path] = {}
        self._fits_firmware = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def mapped(self, name: str | None) -> tuple[VMSpec, tuple[str, ...]]:
        data = {**self._manifest.spec, "image": None}
        sizes = [file.virtual_size for file in self._manifest.files if file.role == "disk"]
        try:
            disks = [dict(disk) for disk in data.get("disks") or ()]
            if len(disks) != len(sizes):
                raise ValueError("another number of disks")
            # Whoever wrote it must not name files of this client, or of the host.
            drop = {"image", "volume", "network"}
            data["disks"] = [
                {key: value for key, value in disk.items() if key not in drop}
                | {"size": f"{size}B"}
                for disk, size in zip(disks, sizes, strict=True)
            ]
            media, warnings = self._without_media(data)
            warnings += _without_reach(data)
            data |= media
            self._without_files(data)
        except (TypeError, ValueError, AttributeError) as error:
            raise ImageError(
                "the bundle's spec does not fit what is in it",
                details=str(error),
                hint="get it again: it was changed on its way",
            ) from error
        if name is not None:
            data["name"] = name
        return VMSpec.from_record(data), tuple(warnings)

    def incoming(
        self, name: str | None, spec: VMSpec | None, around: launch.Surroundings
    ) -> Incoming:
        found = super().incoming(name, spec, around)
        wanted = found.spec.resolved(networks=around.facts.privileged)
        if wanted.firmware.type is not FirmwareType.UEFI:
            return found
        written_by = next(
            (file.target for file in self._manifest.files if file.role == "nvram"), ""
        )
        here = ""
        # That the host has none is what the launch says.
        with suppress(UnsupportedError):
            firmware = choose_firmware(wanted, around.facts)
            here = "" if firmware is None else firmware.loader.rpartition("/")[2]
        self._fits_firmware = here == written_by != ""
        if self._fits_firmware:
            return found
        why = f"they are {written_by}'s, and here it is {here}" if written_by else "there are none"
        warning = f"the firmware's variables are not carried over: {why}"
        return replace(found, warnings=(*found.warnings, warning))

    def _without_media(self, data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        changed, warnings = {}, []
        for field in ("cdroms", "floppies"):
            drives = [dict(drive) for drive in data.get(field) or ()]
            for number, drive in enumerate(drives):
                if drive.pop("path", None) or drive.pop("volume", None):
                    warnings.append(f"{field}[{number}] is empty: its medium is not carried over")
                drive.pop("volume", None)
            changed[field] = drives
        return changed, warnings

    def _without_files(self, data: dict[str, Any]) -> None:
        for user in (data.get("cloud_init") or {}).get("users") or ():
            user.pop("ssh_key_files", None)
        boot = {**(data.get("boot") or {})}
        roles = {file.role for file in self._manifest.files}
        for name in ("kernel", "initrd"):
            if name in boot and (boot[name] is None) != (name not in roles):
                raise ValueError(f"no {name}")
            if boot.get(name) is not None:
                boot[name] = name
        data["boot"] = boot

    def disks(self, scratch: Path, phase: Phase) -> tuple[Image | None, ...]:
        paths = self._reader.unpack(scratch, phase)
        found: list[Image | None] = []
        for file, path in zip(self._manifest.files, paths, strict=True):
            if file.role == "disk":
                image = inspect(path, format="qcow2", phase=phase)
                if image.virtual_size != file.virtual_size:
                    raise ImageError(
                        f"the bundle's disk {file.target} has {image.virtual_size} bytes, "
                        f"and it says {file.virtual_size}",
                        hint="get it again: it was changed on its way",
                    )
                check_once(image)
                found.append(image)
            else:
                self._boot[file.role] = path
        return tuple(found)

    def nvram(self) -> Path | None:
        path = self._boot.get("nvram")
        if path is None or not self._fits_firmware:
            return None
        check_nvram(path)
        return path

    def known(self) -> dict[str, str]:
        names = ("host_key", "ssh_user", "instance_id")
        return {name: getattr(self._manifest, name) for name in names}

    def finished(self, spec: VMSpec) -> VMSpec:
        places = {role: str(path) for role, path in self._boot.items() if role != "nvram"}
        if not places:
            return spec
        return spec.replace(boot=spec.boot.replace(**places))


def _without_reach(data: dict[str, Any]) -> list[str]:
    """Take out what would let a stranger's machine read files of the host, or open it to others.

    A bridge and forwarded ports are what the machine is for, so they stay, and are told.
    """
    warnings = []
    rng = data.get("rng") or {}
    if rng.pop("source", None) not in {None, "/dev/urandom", "/dev/random"}:
        warnings.append("its random numbers come from the host's own source again")
    graphics = data.get("graphics") or {}
    if graphics.pop("listen", None) not in {None, "127.0.0.1", "::1"}:
        warnings.append("its screen is reached from the host alone again")
    for nic in data.get("nics") or ():
        if nic.get("bridge"):
            warnings.append(f"it joins the host's bridge {nic['bridge']}")
        if nic.get("forwards"):
            warnings.append("ports of the host are forwarded to it")
    return warnings
