"""OVF: what VirtualBox, VMware and others write of a machine, read as plain data.

Source: DMTF DSP0243 (OVF 1.1 and 2.1); the resource types are those of
CIM_ResourceAllocationSettingData. The text comes from anywhere: no entity is resolved, nothing is
fetched, and every number has bounds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from lxml import etree

from vmctl.errors import ImageError
from vmctl.imaging.appliance import Appliance, ApplianceDisk, ApplianceNic
from vmctl.imaging.ovf_xml import HINT, attribute, child, children, local_name, parse, text_of

__all__ = [
    "is_plain_name",
    "parse_ovf",
]

_MOST_ITEMS = 1000
_LARGEST_NUMBER = 1 << 63
_PLAIN_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")
_UNIT_NAMES = {
    "byte": 1,
    "bytes": 1,
    "kilobytes": 1 << 10,
    "kb": 1 << 10,
    "megabytes": 1 << 20,
    "mb": 1 << 20,
    "gigabytes": 1 << 30,
    "gb": 1 << 30,
}
_UNIT = re.compile(r"bytes?\s*\*\s*(2|10)\s*\^\s*([0-9]{1,2})")
_CPU, _MEMORY, _IDE, _SCSI, _NIC, _FLOPPY, _CD, _DVD, _DISK, _SATA = (
    3,
    4,
    5,
    6,
    10,
    14,
    15,
    16,
    17,
    20,
)
_CONTROLLERS = {_IDE: "ide", _SCSI: "scsi", _SATA: "sata", 1: "other", 23: "usb"}
# What every exporter writes beside the devices, and what a machine has anyway.
_UNREMARKABLE = {1, 2, 13, 23, 24}
_KINDS = {35: "a sound card", 21: "a serial port", 22: "a parallel port", 19: "a storage extent"}


def is_plain_name(name: str) -> bool:
    """Return whether a name is that of a file in the same folder, and nothing else."""
    return _PLAIN_NAME.fullmatch(name) is not None and not name.startswith(".")


def parse_ovf(text: bytes, *, source: str) -> Appliance:
    """Read an OVF descriptor.

    Args:
        text: The document, in UTF-8.
        source: What errors call it.

    Raises:
        ImageError: It is no OVF descriptor of one machine, or not one to be trusted.
    """
    return _Reader(source).read(parse(text, source))


@dataclass(frozen=True)
class _Item:
    """One entry of the hardware."""

    kind: int
    identifier: str
    parent: str
    place: int
    subtype: str
    node: etree._Element

    def get(self, name: str) -> str:
        return text_of(self.node, name)

    def config(self, key: str) -> str:
        for node in children(self.node, "Config", "ExtraConfig"):
            if attribute(node, "key") == key:
                return attribute(node, "value")
        return ""


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source

    def read(self, root: etree._Element) -> Appliance:
        if child(root, "VirtualSystemCollection") is not None:
            self._refuse(
                "holds several machines", hint="export each machine into a file of its own"
            )
        systems = children(root, "VirtualSystem")
        if len(systems) != 1:
            self._refuse("describes no machine" if not systems else "describes several machines")
        hardware = child(systems[0], "VirtualHardwareSection")
        if hardware is None:
            self._refuse("describes a machine without hardware")
        items = self._items(hardware, self._default_configuration(root))
        os_section = child(systems[0], "OperatingSystemSection")
        machine = child(systems[0], "Machine")
        firmware = self._firmware(hardware, machine)
        by_kind: dict[int, list[_Item]] = {}
        for item in items:
            by_kind.setdefault(item.kind, []).append(item)
        return Appliance(
            name=text_of(systems[0], "Name") or attribute(systems[0], "id")[:255],
            os=_os_words(os_section),
            vcpus=max(1, self._sum(by_kind.get(_CPU, []), most=4096)),
            memory=self._memory(by_kind.get(_MEMORY, [])),
            uefi=firmware.startswith("efi"),
            secure_boot=_config(hardware, "bootOptions.efiSecureBootEnabled").lower() == "true",
            disks=self._disks(root, items),
            nics=_nics(by_kind.get(_NIC, []), machine),
            cdroms=len(by_kind.get(_CD, [])) + len(by_kind.get(_DVD, [])),
            floppies=len(by_kind.get(_FLOPPY, [])),
            other=_other(items),
        )

    def _refuse(self, what: str, *, hint: str = HINT) -> NoReturn:
        raise ImageError(f"{self._source} {what}", hint=hint)

    def _number(self, text: str, what: str, *, most: int = _LARGEST_NUMBER) -> int:
        # Not int() alone, which takes underscores, signs and the digits of every script.
        if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) > most:
            self._refuse(f"has {text[:40]!r} for {what}")
        return int(text)

    def _default_configuration(self, root: etree._Element) -> str:
        """Return the id of the deployment option that counts when nobody chooses one."""
        section = child(root, "DeploymentOptionSection")
        options = [] if section is None else children(section, "Configuration")
        chosen = [node for node in options if attribute(node, "default") in {"true", "1"}]
        return attribute((chosen or options)[0], "id") if options else ""

    def _items(self, hardware: etree._Element, configuration: str) -> list[_Item]:
        found: dict[str, _Item] = {}
        nodes = children(hardware, "Item", "StorageItem", "EthernetPortItem")
        if len(nodes) > _MOST_ITEMS:
            self._refuse(f"lists {len(nodes)} devices")
        for node in nodes:
            wanted = attribute(node, "configuration").split()
            if wanted and configuration not in wanted:
                continue
            identifier = text_of(node, "InstanceID") or text_of(node, "InstanceId")
            place = text_of(node, "AddressOnParent")
            item = _Item(
                kind=self._number(text_of(node, "ResourceType") or "0", "a resource type"),
                identifier=identifier,
                parent=text_of(node, "Parent"),
                place=int(place) if re.fullmatch(r"[0-9]{1,6}", place) else 0,
                subtype=text_of(node, "ResourceSubType"),
                node=node,
            )
            # An item of the chosen configuration stands for the general one of the same id.
            found[identifier or f"none-{len(found)}"] = item
        return list(found.values())

    def _firmware(self, hardware: etree._Element, machine: etree._Element | None) -> str:
        stated = _config(hardware, "firmware")
        for node in [] if machine is None else machine.iter(etree.Element):
            if local_name(node) == "Firmware" and attribute(node, "type"):
                stated = stated or attribute(node, "type")
        return stated.lower()

    def _sum(self, items: list[_Item], *, most: int) -> int:
        total = sum(
            self._number(item.get("VirtualQuantity") or "0", "a quantity", most=most)
            for item in items
        )
        if total > most:
            self._refuse(f"has {total} for a quantity")
        return total

    def _memory(self, items: list[_Item]) -> int:
        total = 0
        for item in items:
            units = item.get("AllocationUnits") or "byte * 2^20"
            count = self._number(item.get("VirtualQuantity") or "0", "the memory", most=1 << 50)
            total += count * self._unit(units)
        if not 0 <= total <= 1 << 50:
            self._refuse(f"has {total} bytes for the memory")
        return total or 1 << 30

    def _unit(self, text: str) -> int:
        match = _UNIT.fullmatch(text.strip().lower())
        if match is not None:
            base, exponent = int(match.group(1)), min(int(match.group(2)), 60)
            return int(base**exponent)
        if text.strip().lower() not in _UNIT_NAMES:
            self._refuse(f"counts in units of {text[:40]!r}")
        return _UNIT_NAMES[text.strip().lower()]

    def _disks(self, root: etree._Element, items: list[_Item]) -> tuple[ApplianceDisk, ...]:
        files = self._files(root)
        section = child(root, "DiskSection")
        nodes = [] if section is None else children(section, "Disk")
        disks = {attribute(node, "diskId"): node for node in nodes}
        if len(disks) != len(nodes):
            self._refuse("has two disks of one id")
        controllers = {item.identifier: item for item in items if item.kind in _CONTROLLERS}
        order = list(controllers)
        found, used = [], set()
        for item in items:
            resource = item.get("HostResource")
            if item.kind != _DISK:
                continue
            identifier = resource.removeprefix("ovf:").removeprefix("/disk/")
            if identifier not in disks:
                self._refuse(
                    f"has a disk drive with {resource[:80]!r} in it, which it doesn't list"
                )
            if identifier in used:
                self._refuse(f"has the disk {identifier[:80]!r} in two drives")
            used.add(identifier)
            place = order.index(item.parent) if item.parent in order else len(order)
            disk = self._disk(disks[identifier], files, controllers.get(item.parent))
            found.append(((place, item.place), disk))
        names = [disk.file for _place, disk in found if disk.file]
        if len(set(names)) != len(names):
            self._refuse("has one file in two disks")
        return tuple(disk for _place, disk in sorted(found, key=lambda entry: entry[0]))

    def _files(self, root: etree._Element) -> dict[str, etree._Element]:
        section = child(root, "References")
        nodes = [] if section is None else children(section, "File")
        if len(nodes) > _MOST_ITEMS:
            self._refuse(f"lists {len(nodes)} files")
        found = {}
        for node in nodes:
            name, identifier = attribute(node, "href"), attribute(node, "id")
            if not is_plain_name(name):
                self._refuse(
                    f"names the file {name[:80]!r}, which is not one beside it",
                    hint="all files of an appliance lie in one folder",
                )
            if identifier in found:
                self._refuse("has two files of one id")
            found[identifier] = node
        return found

    def _disk(
        self,
        node: etree._Element,
        files: dict[str, etree._Element],
        controller: _Item | None,
    ) -> ApplianceDisk:
        unit = self._unit(attribute(node, "capacityAllocationUnits") or "byte")
        text = attribute(node, "capacity")
        if "${" in text:
            self._refuse("leaves the size of a disk open", hint="export it with fixed sizes")
        capacity = self._number(text, "a disk's capacity") * unit
        if not 0 < capacity <= 1 << 50:
            self._refuse(f"claims a disk of {capacity} bytes")
        if attribute(node, "parentRef"):
            self._refuse("has a disk on top of another", hint="export it without snapshots")
        reference = attribute(node, "fileRef")
        if reference and reference not in files:
            self._refuse(f"has a disk in the file {reference[:80]!r}, which it doesn't list")
        file = files.get(reference)
        if file is not None and attribute(file, "chunkSize"):
            self._refuse("has a file that was cut into chunks", hint="export it into whole files")
        packed = "" if file is None else attribute(file, "compression")
        if packed not in {"", "identity", "gzip"}:
            self._refuse(f"has a file that is compressed by {packed[:40]!r}")
        size = "" if file is None else attribute(file, "size")
        return ApplianceDisk(
            file="" if file is None else attribute(file, "href"),
            file_size=self._number(size, "a file's size") if size else None,
            capacity=capacity,
            format=_disk_format(attribute(node, "format")),
            gzip=packed == "gzip",
            bus=_bus_of(controller),
            controller="" if controller is None else controller.subtype,
        )


def _disk_format(uri: str) -> str:
    for word, name in (("vhdx", "vhdx"), ("vhd", "vhd"), ("virtualhd", "vhd"), ("vdi", "vdi")):
        if word in uri.lower():
            return name
    return "vmdk"


def _bus_of(controller: _Item | None) -> str:
    if controller is None:
        return "sata"
    if "nvme" in controller.subtype.lower():
        return "nvme"
    return _CONTROLLERS[controller.kind]


def _os_words(section: etree._Element | None) -> str:
    if section is None:
        return ""
    words = (
        text_of(section, "Description"),
        text_of(section, "OSType"),
        attribute(section, "osType"),
    )
    return " ".join(filter(None, words))


def _config(hardware: etree._Element, key: str) -> str:
    for node in children(hardware, "Config", "ExtraConfig"):
        if attribute(node, "key") == key:
            return attribute(node, "value")
    return ""


def _nics(items: list[_Item], machine: etree._Element | None) -> tuple[ApplianceNic, ...]:
    stated = [] if machine is None else _adapters(machine)
    # VirtualBox has the MAC addresses in its own part, in the same order.
    macs = stated if len(stated) == len(items) else [""] * len(items)
    return tuple(
        ApplianceNic(
            model=item.subtype, network=item.get("Connection"), mac=_mac(item.get("Address")) or mac
        )
        for item, mac in zip(items, macs, strict=True)
    )


def _adapters(machine: etree._Element) -> list[str]:
    return [
        _mac(attribute(node, "MACAddress"))
        for node in machine.iter(etree.Element)
        if local_name(node) == "Adapter" and attribute(node, "enabled") == "true"
    ]


def _mac(text: str) -> str:
    digits = re.sub(r"[:-]", "", text.lower())
    if not re.fullmatch(r"[0-9a-f]{12}", digits) or int(digits[:2], 16) & 1 or not int(digits, 16):
        return ""
    return ":".join(digits[n : n + 2] for n in range(0, 12, 2))


def _other(items: list[_Item]) -> tuple[str, ...]:
    known = {_CPU, _MEMORY, _NIC, _FLOPPY, _CD, _DVD, _DISK, *_CONTROLLERS, *_UNREMARKABLE}
    found = []
    for item in items:
        if item.kind not in known:
            what = _KINDS.get(item.kind, f"a device of type {item.kind}")
            found.append(f"{what} ({item.subtype})" if item.subtype else what)
    return tuple(dict.fromkeys(found))
