"""What a spec would be turned into, without making anything, and without a host if need be."""

from __future__ import annotations

import os
import uuid as uuid_module
from dataclasses import dataclass, field, replace
from pathlib import Path

from vmctl.render import (
    FirmwareImage,
    HostFacts,
    Placement,
    SeedIdentity,
    Templates,
    disk_targets,
    render_domain,
    render_seed,
    with_macs,
)
from vmctl.render.wishes import resolved_for
from vmctl.spec import Arch, FirmwareType, VMSpec

__all__ = ["Preview", "preview_documents"]

_FOLDER = "/var/lib/libvirt/images"
# Names are made unique by it, and so are MAC addresses: the same name gives the same bytes.
_SPACE = uuid_module.UUID("7d1a3c6e-5a0b-4a43-9f0e-2f1f5c1b9d10")
_X86 = "/usr/share/OVMF"
_ARM = "/usr/share/AAVMF"
# Debian's, as a host that has all of it offers them.
_FIRMWARE = {
    Arch.AARCH64: (
        FirmwareImage(
            loader=f"{_ARM}/AAVMF_CODE.no-secboot.fd", nvram_template=f"{_ARM}/AAVMF_VARS.fd"
        ),
        FirmwareImage(
            loader=f"{_ARM}/AAVMF_CODE.ms.fd",
            nvram_template=f"{_ARM}/AAVMF_VARS.ms.fd",
            secure_boot=True,
        ),
    ),
    Arch.X86_64: (
        FirmwareImage(loader=f"{_X86}/OVMF_CODE_4M.fd", nvram_template=f"{_X86}/OVMF_VARS_4M.fd"),
        FirmwareImage(
            loader=f"{_X86}/OVMF_CODE_4M.ms.fd",
            nvram_template=f"{_X86}/OVMF_VARS_4M.ms.fd",
            secure_boot=True,
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The documents of a machine.

    Attributes:
        xml: The domain's XML.
        seed: The files of cloud-init's seed, by name; empty without cloud-init. They hold the
            spec's secrets. Keys that are made by a launch are replaced by words.
    """

    xml: str
    seed: dict[str, str] = field(repr=False)


def preview_documents(
    spec: VMSpec,
    *,
    facts: HostFacts | None = None,
    templates: str | os.PathLike[str] | None = None,
) -> Preview:
    """Render the documents that a launch would make, with stand-ins for what it decides.

    The UUID and the MAC addresses follow from the name; disks lie where libvirt's own pool has
    them. The same spec gives the same bytes.

    Args:
        spec: What is wanted.
        facts: What the host can do (`Host.facts`); None for a host with emulation that can do all
            else.
        templates: A folder of templates, as for `vmctl.connect`.

    Raises:
        UnsupportedError: The host can't do what the spec asks for.
    """
    known = facts or _generic(spec.arch)
    chain = None if templates is None else Templates(Path(templates))
    uuid = str(uuid_module.uuid5(_SPACE, spec.name))
    resolved = with_macs(resolved_for(spec, known), uuid)
    xml = render_domain(resolved, known, _placement(resolved, uuid), templates=chain)
    if resolved.cloud_init is None:
        return Preview(xml=xml, seed={})
    identity = SeedIdentity(
        instance_id=uuid,
        host_key_private="(made by the launch: the guest's private host key)",
        host_key_public="(made by the launch: the guest's public host key)",
        authorized_keys=("(the public key of the client that launches it)",),
    )
    files = render_seed(resolved, identity, templates=chain)
    return Preview(xml=xml, seed={name: content.decode() for name, content in files.items()})


def _generic(arch: Arch) -> HostFacts:
    host = "aarch64" if arch is Arch.AARCH64 else "x86_64"
    return replace(
        HostFacts(),
        arch=host,
        firmware=_FIRMWARE[Arch(host)],
        tpm=True,
        kvm_offered=True,
        features=frozenset({"spice", "virtiofs", "9p"}),
        kvm_reason="no host was asked",
    )


def _placement(spec: VMSpec, uuid: str) -> Placement:
    stem = f"{_FOLDER}/{spec.name}.{uuid}"
    disks, formats = [], []
    for disk, target in zip(spec.disks, disk_targets(spec), strict=True):
        kind = str(disk.format or "qcow2")
        volume = disk.volume
        place = f"{stem}.{target}.{kind}" if volume is None else _path_of(volume)
        disks.append(place)
        formats.append(kind)
    return Placement(
        uuid=uuid,
        disks=tuple(disks),
        disk_formats=tuple(formats),
        cdroms=tuple(
            _medium(entry.path, entry.volume, f"{stem}.cdroms{number}.iso")
            for number, entry in enumerate(spec.cdroms)
        ),
        floppies=tuple(
            _medium(entry.path, entry.volume, f"{stem}.floppies{number}.img")
            for number, entry in enumerate(spec.floppies)
        ),
        has_seed=spec.cloud_init is not None,
        seed=None if spec.cloud_init is None else f"{stem}.seed.iso",
        console_log=f"{stem}.console.log",
        kernel=None if spec.boot.kernel is None else f"{stem}.kernel",
        initrd=None if spec.boot.initrd is None else f"{stem}.initrd",
        nvram=f"{stem}.nvram" if spec.firmware.type is FirmwareType.UEFI else None,
    )


def _path_of(volume: str) -> str:
    return volume if volume.startswith("/") else f"{_FOLDER}/{volume.rpartition('/')[2]}"


def _medium(path: str | None, volume: str | None, uploaded: str) -> str | None:
    if volume is not None:
        return _path_of(volume)
    return None if path is None else uploaded
