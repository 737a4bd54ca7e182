"""A bundle as what it would become; whoever wrote it may be a stranger."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from vmctl import launch
from vmctl.errors import ImageError, UnsupportedError
from vmctl.imaging import bundle
from vmctl.imaging.conversion import check_once
from vmctl.imaging.inspection import Image, inspect
from vmctl.imaging.nvram import check_nvram
from vmctl.progress import Phase
from vmctl.render.choices import choose_firmware
from vmctl.render.wishes import resolved_for
from vmctl.spec import FirmwareType, VMSpec
from vmctl.transfer.incoming import Incoming, Opened, called

__all__ = ["Bundle"]

# What of the host a machine may read and be reached at, whoever it comes from.
_RANDOM = frozenset({"/dev/urandom", "/dev/random"})
_LOOPBACK = frozenset({"127.0.0.1", "::1"})


class Bundle(Opened):
    """A bundle that was opened, and whose manifest was read."""

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
        """Close what was opened for it."""
        if self._file is not None:
            self._file.close()

    def mapped(self, name: str | None) -> tuple[VMSpec, tuple[str, ...]]:
        """Return the machine's spec, and what is not as it was; ``name`` replaces its own."""
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
        spec, more = _without_reach(VMSpec.from_record(data))
        return spec, (*warnings, *more)

    def incoming(
        self, name: str | None, spec: VMSpec | None, around: launch.Surroundings
    ) -> Incoming:
        """Return what it would become at a host; ``spec`` is used instead of its own."""
        found = super().incoming(name, spec, around)
        wanted = resolved_for(found.spec, around.facts)
        more = self._judge_nvram(wanted, around)
        if wanted.firmware.tpm is not None:
            more = (*more, "its TPM is a new one, and empty")
        return replace(found, warnings=(*found.warnings, *more))

    def _judge_nvram(self, wanted: VMSpec, around: launch.Surroundings) -> tuple[str, ...]:
        """See whether UEFI's variables fit the firmware that there is, and say it if they don't."""
        if wanted.firmware.type is not FirmwareType.UEFI:
            return ()
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
            return ()
        why = (
            f"they are {written_by[:80]}'s, and here it is {here}"
            if written_by
            else "there are none"
        )
        return (f"the firmware's variables are not carried over: {why}",)

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
        """Unpack, or convert, all of them."""
        paths = self._reader.unpack(scratch, phase)
        found: list[Image | None] = []
        for file, path in zip(self._manifest.files, paths, strict=True):
            if file.role == "disk":
                with called(path, f"the bundle's disk {file.target}"):
                    image = inspect(path, format="qcow2", phase=phase)
                    check_once(image)
                if image.virtual_size != file.virtual_size:
                    raise ImageError(
                        f"the bundle's disk {file.target} has {image.virtual_size} bytes, "
                        f"and it says {file.virtual_size}",
                        hint="get it again: it was changed on its way",
                    )
                found.append(image)
            else:
                self._boot[file.role] = path
        return tuple(found)

    def nvram(self) -> Path | None:
        """Return the file with UEFI's variables, after `disks`; None where there is none."""
        path = self._boot.get("nvram")
        if path is None or not self._fits_firmware:
            return None
        check_nvram(path)
        return path

    def known(self) -> dict[str, str]:
        """Return what is known of how to reach the guest, as `Imported` has it."""
        names = ("host_key", "ssh_user", "instance_id")
        return {name: getattr(self._manifest, name) for name in names}

    def finished(self, spec: VMSpec) -> VMSpec:
        """Return the spec with what only the unpacked files could say."""
        # A spec that was given may boot otherwise; what the bundle's own says is the role's name.
        places = {
            role: str(path)
            for role, path in self._boot.items()
            if getattr(spec.boot, role, None) == role
        }
        if not places:
            return spec
        return spec.replace(boot=spec.boot.replace(**places))


def _without_reach(spec: VMSpec) -> tuple[VMSpec, list[str]]:
    """Take out what would let a stranger's machine read files of the host, or open it to others.

    A bridge and forwarded ports are what the machine is for, so they stay, and are told.
    """
    warnings = []
    if spec.rng is not None and spec.rng.source not in _RANDOM:
        warnings.append("its random numbers come from the host's own source again")
        spec = spec.replace(rng=spec.rng.replace(source="/dev/urandom"))
    if any(server.listen not in _LOOPBACK for server in spec.graphics):
        warnings.append("its screen is reached from the host alone again")
        local = tuple(server.replace(listen="127.0.0.1") for server in spec.graphics)
        spec = spec.replace(graphics=local)
    for nic in spec.nics:
        if nic.bridge:
            warnings.append(f"it joins the host's bridge {nic.bridge}")
        if nic.forwards:
            warnings.append("ports of the host are forwarded to it")
    return spec, warnings
