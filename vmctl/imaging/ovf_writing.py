"""A spec as an OVF 1.0 descriptor and an OVA, in the words that VirtualBox and VMware know.

Hardware that only QEMU has becomes what comes nearest: virtio-blk and virtio-scsi disks go to a
SATA controller. A guest that has no driver for that needs one before it is exported.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lxml import etree

from vmctl.progress import Phase
from vmctl.spec import DiskBus, FirmwareType, NicModel, VMSpec

__all__ = ["ExportedDisk", "describe_machine", "write_ova"]

_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
_RASD = f"{_CIM}/CIM_ResourceAllocationSettingData"
_VSSD = f"{_CIM}/CIM_VirtualSystemSettingData"
_VMW = "http://www.vmware.com/schema/ovf"
_NAMESPACES = {"ovf": _OVF, "rasd": _RASD, "vssd": _VSSD, "vmw": _VMW}
_STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_NIC_TYPES = {NicModel.E1000: "E1000", NicModel.PCNET: "PCNet32", NicModel.E1000E: "E1000e"}
_CHUNK = 1024 * 1024
# ustar has 11 octal digits for a size; GNU's form of larger ones is what every reader takes.
_LARGEST_USTAR = 8**11


@dataclass(frozen=True, kw_only=True)
class ExportedDisk:
    """A disk that goes into an OVA: its file's name and size, and what a guest sees, in bytes."""

    name: str
    size: int
    virtual_size: int
    bus: DiskBus


def _sub(
    parent: etree._Element, tag: str, text: str | None = None, **attributes: str
) -> etree._Element:
    node = etree.SubElement(
        parent, f"{{{_OVF}}}{tag}", {f"{{{_OVF}}}{key}": value for key, value in attributes.items()}
    )
    node.text = text
    return node


class _Hardware:
    """The list of devices, numbered as they are added."""

    def __init__(self, section: etree._Element) -> None:
        self._section = section
        self._count = 0

    def add(self, kind: int, name: str, **fields: str) -> str:
        self._count += 1
        identifier = str(self._count)
        item = _sub(self._section, "Item")
        values = fields | {
            "ElementName": name,
            "InstanceID": identifier,
            "ResourceType": str(kind),
        }
        # The schema wants them in this order, by the alphabet.
        for key in sorted(values):
            etree.SubElement(item, f"{{{_RASD}}}{key}").text = values[key]
        return identifier


def describe_machine(spec: VMSpec, disks: Sequence[ExportedDisk]) -> bytes:
    """Return the OVF descriptor of a machine.

    Args:
        spec: With every default filled in.
        disks: In the order of the spec's.
    """
    root = etree.Element(f"{{{_OVF}}}Envelope", nsmap=_NAMESPACES)
    references = _sub(root, "References")
    section = _sub(root, "DiskSection")
    _sub(section, "Info", "The machine's disks")
    for number, disk in enumerate(disks, 1):
        _sub(references, "File", id=f"file{number}", href=disk.name, size=str(disk.size))
        _sub(
            section,
            "Disk",
            diskId=f"disk{number}",
            fileRef=f"file{number}",
            capacity=str(disk.virtual_size),
            format=_STREAM_OPTIMIZED,
        )
    networks = _sub(root, "NetworkSection")
    _sub(networks, "Info", "The networks that the machine is on")
    for name in dict.fromkeys(nic.network or nic.bridge or "user" for nic in spec.nics):
        _sub(networks, "Network", name=name)
    system = _sub(root, "VirtualSystem", id=spec.name)
    _sub(system, "Info", "A virtual machine")
    _sub(system, "Name", spec.name)
    os = _sub(system, "OperatingSystemSection", id="102")
    _sub(os, "Info", "The operating system")
    _sub(os, "Description", "Other 64-bit")
    _hardware(system, spec, disks)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _hardware(system: etree._Element, spec: VMSpec, disks: Sequence[ExportedDisk]) -> None:
    section = _sub(system, "VirtualHardwareSection")
    _sub(section, "Info", "The machine's hardware")
    described = _sub(section, "System")
    for key, value in (
        ("ElementName", "Virtual Hardware Family"),
        ("InstanceID", "0"),
        ("VirtualSystemIdentifier", spec.name),
        ("VirtualSystemType", "vmx-11"),
    ):
        etree.SubElement(described, f"{{{_VSSD}}}{key}").text = value
    hardware = _Hardware(section)
    hardware.add(3, f"{spec.vcpus} virtual CPUs", VirtualQuantity=str(spec.vcpus))
    mebibytes = max(1, int(spec.memory) >> 20)
    hardware.add(
        4,
        f"{mebibytes} MB of memory",
        AllocationUnits="byte * 2^20",
        VirtualQuantity=str(mebibytes),
    )
    _drives(hardware, spec, disks)
    for number, nic in enumerate(spec.nics):
        fields = {"Address": nic.mac} if nic.mac else {}
        hardware.add(
            10,
            f"Network adapter {number + 1}",
            AutomaticAllocation="true",
            Connection=nic.network or nic.bridge or "user",
            ResourceSubType=_NIC_TYPES.get(nic.model or NicModel.E1000, "E1000"),
            **fields,
        )
    if spec.firmware.type is FirmwareType.UEFI:
        _config(section, "firmware", "efi")
        if spec.firmware.secure_boot:
            _config(section, "bootOptions.efiSecureBootEnabled", "true")


def _config(section: etree._Element, key: str, value: str) -> None:
    etree.SubElement(
        section,
        f"{{{_VMW}}}Config",
        {f"{{{_OVF}}}required": "false", f"{{{_VMW}}}key": key, f"{{{_VMW}}}value": value},
    )


def _drives(hardware: _Hardware, spec: VMSpec, disks: Sequence[ExportedDisk]) -> None:
    ide = [n for n, disk in enumerate(disks) if disk.bus is DiskBus.IDE]
    sata = [n for n, disk in enumerate(disks) if disk.bus is not DiskBus.IDE]
    places: list[tuple[int, str, int]] = []
    for start in range(0, len(ide), 2):
        parent = hardware.add(
            5, f"IDE controller {start // 2}", Address=str(start // 2), ResourceSubType="PIIX4"
        )
        places += [(number, parent, place) for place, number in enumerate(ide[start : start + 2])]
    parent = ""
    if sata or spec.cdroms:
        parent = hardware.add(20, "SATA controller 0", Address="0", ResourceSubType="AHCI")
        places += [(number, parent, place) for place, number in enumerate(sata)]
    for number, above, place in sorted(places):
        hardware.add(
            17,
            f"Hard disk {number + 1}",
            AddressOnParent=str(place),
            HostResource=f"ovf:/disk/disk{number + 1}",
            Parent=above,
        )
    for number in range(len(spec.cdroms)):
        hardware.add(
            15,
            f"CD-ROM {number + 1}",
            AddressOnParent=str(len(sata) + number),
            AutomaticAllocation="true",
            Parent=parent,
        )


def write_ova(
    target: BinaryIO, name: str, descriptor: bytes, disks: Sequence[tuple[str, Path]], phase: Phase
) -> None:
    """Write an OVA: the descriptor, the manifest, then the disks.

    Args:
        target: Where to.
        name: What the descriptor and the manifest are called.
        descriptor: The OVF document.
        disks: The name in the package of each file.
        phase: Told how far it is.
    """
    lines = [f"SHA256({name}.ovf)= {hashlib.sha256(descriptor).hexdigest()}"]
    for number, (member, path) in enumerate(disks):
        phase.update(f"computing the digest of {member}", number / len(disks))
        with path.open("rb") as file:
            lines.append(f"SHA256({member})= {hashlib.file_digest(file, 'sha256').hexdigest()}")
    manifest = "".join(f"{line}\n" for line in lines).encode()
    large = any(path.stat().st_size >= _LARGEST_USTAR for _member, path in disks)
    style = tarfile.GNU_FORMAT if large else tarfile.USTAR_FORMAT
    with tarfile.open(fileobj=target, mode="w|", format=style) as tar:
        for member, content in ((f"{name}.ovf", descriptor), (f"{name}.mf", manifest)):
            tar.addfile(_entry(member, len(content)), io.BytesIO(content))
        for number, (member, path) in enumerate(disks):
            phase.update(f"writing {member}", number / len(disks))
            with path.open("rb") as file:
                tar.addfile(_entry(member, path.stat().st_size), file)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry
