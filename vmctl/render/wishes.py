"""What a profile wishes for, and a machine gets where its host has it.

It is worked out before anything is rendered and stands in the spec from then on, so that it is in
the machine's record and in the documents alike.
"""

from __future__ import annotations

from typing import Any

from vmctl.render.facts import HostFacts
from vmctl.spec import FirmwareType, NicSpec, NicType, VMSpec
from vmctl.spec.firmware import FirmwareSpec
from vmctl.spec.platforms import platform_of
from vmctl.spec.profiles import Wishes, profile_for

__all__ = ["resolved_for", "wished_of"]


def resolved_for(spec: VMSpec, facts: HostFacts) -> VMSpec:
    """Fill in what the profile decides, and what it wishes for as far as the host has it."""
    resolved = spec.resolved(networks=facts.privileged)
    profile = profile_for(resolved.profile, resolved.arch, resolved.machine)
    if profile is None or profile.wishes == Wishes():
        return resolved
    wishes = profile.wishes
    changes: dict[str, Any] = {
        "firmware": _firmware(resolved, wishes, facts),
        "nics": tuple(_nic(nic, wishes, facts) for nic in resolved.nics),
    }
    cpu = resolved.cpu
    if wishes.cpu_limit and "limit" not in cpu.model_fields_set and _has("cpu-limits", facts):
        changes["cpu"] = cpu.model_copy(update={"limit": wishes.cpu_limit})
    return resolved.model_copy(update=changes)


def _has(name: str, facts: HostFacts) -> bool:
    return name not in facts.lacking


def _firmware(spec: VMSpec, wishes: Wishes, facts: HostFacts) -> FirmwareSpec:
    firmware = spec.firmware
    platform = platform_of(spec.arch, spec.machine or "")
    if platform is None:
        return firmware
    changes: dict[str, Any] = {}
    models = dict(platform.tpm_models)
    if "tpm" not in firmware.model_fields_set and facts.tpm and wishes.tpm in models:
        changes["tpm"] = wishes.tpm
    offered = spec.arch == facts.arch and any(image.secure_boot for image in facts.firmware)
    secure = wishes.secure_boot and firmware.type is FirmwareType.UEFI and platform.name == "q35"
    # Encrypted memory can't be had together with the mode that secure boot takes.
    if secure and offered and spec.launch_security is None:
        changes["secure_boot"] = firmware.secure_boot or "secure_boot" not in (
            firmware.model_fields_set
        )
    return firmware.model_copy(update=changes) if changes else firmware


def wished_of(spec: VMSpec, nic: NicSpec, facts: HostFacts) -> NicSpec:
    """Return a NIC that comes to a machine later with what the machine's profile wishes for."""
    profile = profile_for(spec.profile, spec.arch, spec.machine)
    # What needs no host is filled in already.
    return nic if profile is None else _nic(nic, profile.wishes, facts)


def _nic(nic: NicSpec, wishes: Wishes, facts: HostFacts) -> NicSpec:
    """Return a NIC with the limits that the profile wishes for, unless its own are written."""
    if wishes.nic_bandwidth is None or "bandwidth" in nic.model_fields_set:
        return nic
    if nic.type is NicType.USER or not _has("shaping", facts):
        return nic
    return nic.model_copy(update={"bandwidth": wishes.nic_bandwidth})
