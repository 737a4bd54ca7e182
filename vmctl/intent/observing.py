"""What a domain's XML says, as values by path, in the words of a spec.

The same reading serves what vmctl renders and what libvirt has, so that the two can be compared:
what a machine has otherwise than vmctl made it was changed by somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree

__all__ = ["observe"]

# Memory sizes in libvirt's XML (https://libvirt.org/formatdomain.html#memory-allocation).
_UNITS = {"b": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

# Path: where the value stands (an element's text, or `element@attribute`).
_PLAIN = {
    "max_vcpus": "vcpu",
    "accel": ".@type",
    "arch": "os/type@arch",
    "machine": "os/type@machine",
    "firmware.loader": "os/loader",
    "boot.kernel": "os/kernel",
    "boot.initrd": "os/initrd",
    "boot.cmdline": "os/cmdline",
    "boot.menu": "os/bootmenu@enable",
    "cpu.mode": "cpu@mode",
    "cpu.model": "cpu/model",
    "clock.offset": "clock@offset",
    "clock.timezone": "clock@timezone",
    "on_poweroff": "on_poweroff",
    "on_reboot": "on_reboot",
    "on_crash": "on_crash",
    "video.model": "devices/video/model@type",
    "sound.model": "devices/sound@model",
    "rng.source": "devices/rng/backend",
    "rng.rate_bytes": "devices/rng/rate@bytes",
    "watchdog.model": "devices/watchdog@model",
    "watchdog.action": "devices/watchdog@action",
    "balloon.model": "devices/memballoon@model",
    "balloon.autodeflate": "devices/memballoon@autodeflate",
    "balloon.stats_period": "devices/memballoon/stats@period",
    "firmware.tpm": "devices/tpm/backend@version",
}
_DISK = {
    "device": ".@device",
    "format": "driver@type",
    "bus": "target@bus",
    "cache": "driver@cache",
    "io": "driver@io",
    "discard": "driver@discard",
    "serial": "serial",
}
_DRIVE = {name: where for name, where in _DISK.items() if name != "format"}
_NIC = {
    "type": ".@type",
    "network": "source@network",
    "bridge": "source@bridge",
    "model": "model@type",
    "link": "link@state",
}


def observe(xml: str, *, running: bool = False) -> dict[str, str]:
    """Return the values that a domain's XML has, by path; what it does not have is missing.

    Args:
        xml: As vmctl renders it, or as libvirt gives it.
        running: Whether it is of a running machine, whose memory is what its guest has of it: what
            was plugged in is in it, and what the balloon took is not.
    """
    root = etree.fromstring(xml, parser=etree.XMLParser(resolve_entities=False))
    seen = {path: value for path, where in _PLAIN.items() if (value := _at(root, where))}
    seen |= dict(_sizes(root, "currentMemory" if running else "memory"))
    vcpu = root.find("vcpu")
    if vcpu is not None:
        seen["vcpus"] = vcpu.get("current") or (vcpu.text or "").strip()
    if order := [node.get("dev", "") for node in root.findall("os/boot")]:
        seen["boot.order"] = ",".join(order)
    for disk in root.findall("devices/disk"):
        target = _at(disk, "target@dev")
        seen[f"disks.{target}"] = "there"
        # A medium is raw always, and an empty drive may not say so.
        fields = _DRIVE if _at(disk, ".@device") in {"cdrom", "floppy"} else _DISK
        seen |= _prefixed(f"disks.{target}", disk, fields)
    for nic in root.findall("devices/interface"):
        mac = _at(nic, "mac@address").lower()
        seen[f"nics.{mac}"] = "there"
        seen |= _prefixed(f"nics.{mac}", nic, _NIC)
        if nic.get("type") == "network":
            # While it runs, libvirt says which bridge that network has.
            seen.pop(f"nics.{mac}.bridge", None)
    for number, server in enumerate(root.findall("devices/graphics")):
        seen[f"graphics.{number}"] = f"{server.get('type')} on {_at(server, 'listen@address')}"
    for number, entry in enumerate(root.findall("devices/hostdev")):
        seen[f"hostdevs.{number}"] = entry.get("type", "")
    for entry in root.findall("devices/filesystem"):
        seen[f"shares.{_at(entry, 'target@dir')}"] = _at(entry, "source@dir")
    if "machine" in seen:
        seen["machine"] = _family(seen["machine"])
    return seen


def _at(node: etree._Element, where: str) -> str:
    path, _, attribute = where.partition("@")
    found = node if path == "." else node.find(path)
    if found is None:
        return ""
    return (found.get(attribute) if attribute else found.text) or ""


def _prefixed(prefix: str, node: etree._Element, fields: dict[str, str]) -> dict[str, str]:
    return {
        f"{prefix}.{name}": value for name, where in fields.items() if (value := _at(node, where))
    }


def _sizes(root: etree._Element, memory: str) -> Iterator[tuple[str, str]]:
    for path, tag in (("memory", memory), ("max_memory", "maxMemory")):
        node = root.find(tag)
        if node is not None:
            size = int(node.text or 0) * _UNITS.get(node.get("unit") or "KiB", 1 << 10)
            yield path, f"{size >> 10}KiB"


def _family(machine: str) -> str:
    """Return the machine type without its version: libvirt writes `q35` as it was resolved."""
    known = {"pc-q35": "q35", "pc-i440fx": "pc"}
    family = re.sub(r"-\d+(\.\d+)*$", "", machine)
    return known.get(family, family)
