"""When a difference can be made: while the machine runs, at its next start, or only anew."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from vmctl.spec import Arch
from vmctl.spec.platforms import platform_of
from vmctl.spec.sizes import Size

__all__ = ["When", "classify"]


class When(StrEnum):
    """When a difference can be made."""

    LIVE = "live"
    """At once, in the running machine and in its definition."""
    NEXT_START = "next start"
    """In the definition; the machine has it from its next start on."""
    ANEW = "anew"
    """Only by making the machine anew."""


_LIVE = frozenset(
    {
        "vcpus",
        "memory",
        "autostart",
        "profile",
        "disks.*",
        "disks.*.size",
        "disks.*.iotune",
        "nics.*",
        "nics.*.link",
        "nics.*.bandwidth",
        "nics.*.forwards",
        "nics.*.security_groups",
        "nics.*.antispoofing",
        "cdroms.*.medium",
    }
)
_NEEDS_START = "QEMU takes it when the machine starts"
_FIRST_BOOT = "the guest was told of it when it first booted: change it there"
_WHY_ANEW = {
    "name": "a machine's name is its identity: `vmctl rename` gives it another",
    "tenant": "whose a machine is decides what it was made of",
    "image": "the first disk was made from it",
    "arch": "the guest was installed for the other one",
    "firmware.type": "a guest boots by the firmware that it was installed with",
    "firmware.secure_boot": "a guest boots by the firmware that it was installed with",
    "cloud_init": "a guest is provisioned once, when it first boots",
    "disks.*.image": "the disk was made from it",
    "disks.*.full_clone": "the disk was made so",
    "disks.*.format": "the disk was made so",
    "disks.*.volume": "it is another disk: detach this one, and attach that",
    "disks.*.network": "it is another disk: detach this one, and attach that",
    "floppies.*.medium": "it was uploaded when the machine was made",
    "nics.*.address": _FIRST_BOOT,
    "nics.*.gateway": _FIRST_BOOT,
    "nics.*.nameservers": _FIRST_BOOT,
    "nics.*.dhcp": _FIRST_BOOT,
    "nics.*.reserve": "it was reserved with the NIC: detach that, and attach it anew",
    "boot.kernel": "it was uploaded when the machine was made",
    "boot.initrd": "it was uploaded when the machine was made",
}


def classify(path: str, action: str, before: Any, after: Any) -> tuple[When, str]:
    """Say when a difference can be made, and why not sooner.

    Args:
        path: The field, devices by their names.
        action: ``add``, ``change`` or ``remove``.
        before: The value now.
        after: The value that is wanted.
    """
    general = _general(path)
    top = path.partition(".")[0]
    for name in (general, top):
        if name in _WHY_ANEW:
            return When.ANEW, _WHY_ANEW[name]
    if general == "disks.*.size" and _shrinks(before, after):
        return When.ANEW, "a disk can grow, and not shrink: data at its end would be lost"
    if general == "machine" and _other_platform(before, after):
        return When.ANEW, "a guest is installed for one platform"
    if general in _LIVE or top == "labels":
        return When.LIVE, ""
    if general in {"cdroms.*", "floppies.*"} and action == "add":
        return When.NEXT_START, "a drive can't be plugged in; its disc can be changed"
    return When.NEXT_START, _NEEDS_START


def _general(path: str) -> str:
    """Return the path with ``*`` for the name of a device."""
    name, dot, rest = path.partition(".")
    if not dot or name not in {"disks", "cdroms", "floppies", "nics"}:
        return path
    _device, dot, field = rest.partition(".")
    return f"{name}.*{dot}{field}"


def _shrinks(before: Any, after: Any) -> bool:
    return before is not None and after is not None and Size(after) < Size(before)


def _other_platform(before: Any, after: Any) -> bool:
    kinds = [
        platform_of(Arch.X86_64, str(name)) or platform_of(Arch.AARCH64, str(name))
        for name in (before, after)
    ]
    return kinds[0] != kinds[1]
