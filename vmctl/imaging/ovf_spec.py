"""From an appliance to a spec: the hardware that its guest already knows, and what gets lost.

A guest that never ran on virtio has no driver for it to boot from. So it keeps what it has where
vmctl has the same, and else gets what systems of its age bring a driver for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from vmctl.imaging.appliance import Appliance, ApplianceNic
from vmctl.spec import VMSpec

__all__ = ["Mapped", "machine_name", "map_appliance"]

# Systems from before AHCI and e1000e were everywhere; the words of CIM, VMware and VirtualBox.
_OLD = re.compile(
    r"dos\b|os/?2|netware|windows ?_?(31|3\.1|95|98|9x|me|nt|nt4|2000|2k|2003|2k3|xp)"
    r"|win(31|95|98|me|nt|2000|net|xp)",
    re.IGNORECASE,
)
_WINDOWS = re.compile(r"windows|\bwin", re.IGNORECASE)
_NIC_MODELS = (
    ("e1000e", "e1000e"),
    ("82574", "e1000e"),
    ("e1000", "e1000"),
    ("8254", "e1000"),
    ("virtio", "virtio"),
    ("pcnet", "pcnet"),
    ("am79c", "pcnet"),
    ("flexible", "pcnet"),
    ("rtl8139", "rtl8139"),
    ("ne2000", "ne2k_pci"),
    ("ne1000", "ne2k_pci"),
)
_IDE_DRIVES, _SATA_DRIVES = 4, 6


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """A spec made of an appliance.

    Attributes:
        spec: It.
        warnings: One sentence for each thing that is not as it was.
    """

    spec: VMSpec
    warnings: tuple[str, ...]


def map_appliance(appliance: Appliance, *, name: str | None = None) -> Mapped:
    """Turn an appliance into a spec.

    Args:
        appliance: What the descriptor said.
        name: The machine's name; None for the appliance's, as far as it can be one.

    Raises:
        SpecError: There is no machine like that, with more disks than its controller takes, say.
    """
    return _Mapping(appliance).build(name)


def machine_name(text: str) -> str:
    """Return the machine's name that is nearest to some words."""
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", text))
    return name.strip("._-")[:63].rstrip("._-") or "imported"


class _Mapping:
    def __init__(self, appliance: Appliance) -> None:
        self._from = appliance
        self._old = _OLD.search(appliance.os) is not None
        self._warnings: list[str] = []

    def build(self, name: str | None) -> Mapped:
        own = self._from
        chosen = name or machine_name(own.name)
        if name is None and chosen != own.name:
            self._warn(f"the name {own.name[:80]!r} is no machine's name here; it becomes {chosen}")
        disks = [self._disk(number) for number in range(len(own.disks))]
        ide = self._old or any(disk["bus"] == "ide" for disk in disks)
        data: dict[str, Any] = {
            "name": chosen,
            "profile": "legacy" if self._old else "modern",
            "machine": "pc" if ide else "q35",
            "vcpus": own.vcpus,
            "memory": _size(own.memory // 1024 * 1024),
            "firmware": self._firmware(ide=ide),
            "disks": disks,
            "cdroms": self._cdroms(disks, ide=ide),
            "floppies": [{}] * min(own.floppies, 2),
            "nics": [self._nic(number, nic) for number, nic in enumerate(own.nics)],
            "cloud_init": None,
        }
        if _WINDOWS.search(own.os):
            # Windows keeps the hardware clock in local time.
            data["clock"] = "localtime"
        for what in own.other:
            self._warn(f"left out: {what}")
        return Mapped(spec=VMSpec.model_validate(data), warnings=tuple(self._warnings))

    def _warn(self, text: str) -> None:
        self._warnings.append(text)

    def _disk(self, number: int) -> dict[str, Any]:
        disk = self._from.disks[number]
        bus = "ide" if self._old else "sata"
        if disk.bus in {"ide", "sata"} and not (self._old and disk.bus == "sata"):
            bus = disk.bus
        elif "virtio" in disk.controller.lower():
            bus = "scsi"
        else:
            what = " ".join(filter(None, (disk.controller, disk.bus)))
            self._warn(
                f"disks[{number}] was on {what}, which there is not here; it is on {bus}, "
                "whose driver the guest must have"
            )
        return {"size": _size(disk.capacity), "bus": bus}

    def _cdroms(self, disks: list[dict[str, Any]], *, ide: bool) -> list[dict[str, Any]]:
        bus = "ide" if ide else "sata"
        free = (_IDE_DRIVES if ide else _SATA_DRIVES) - sum(disk["bus"] == bus for disk in disks)
        count = max(0, min(self._from.cdroms, free))
        if count < self._from.cdroms:
            self._warn(
                f"left out: {self._from.cdroms - count} of the CD-ROM drives, for want of room"
            )
        return [{"bus": bus}] * count

    def _firmware(self, *, ide: bool) -> dict[str, Any]:
        own = self._from
        secure = own.secure_boot and own.uefi and not ide
        if own.secure_boot and not secure:
            self._warn("secure boot is off: a machine with IDE disks can't have it")
        if own.uefi:
            self._warn(
                "the firmware's variables are not carried over: it looks for a boot loader afresh"
            )
        return {"type": "uefi" if own.uefi else "bios", "secure_boot": secure}

    def _nic(self, number: int, nic: ApplianceNic) -> dict[str, Any]:
        stated = re.sub(r"[ _-]", "", nic.model.lower())
        model = next((ours for word, ours in _NIC_MODELS if word in stated), None)
        if model is None:
            model = "pcnet" if self._old else "e1000e"
            self._warn(
                f"nics[{number}] was {nic.model or 'of no stated model'}, which there is not here; "
                f"it is {model}, whose driver the guest must have"
            )
        if nic.network != "default":
            self._warn(f"nics[{number}] was on {nic.network or 'no network'}; it is on 'default'")
        data = {"network": "default", "model": model}
        return data | ({"mac": nic.mac} if nic.mac else {})


def _size(count: int) -> str:
    return f"{count}B"
