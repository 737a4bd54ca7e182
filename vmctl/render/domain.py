"""A machine's domain XML, from its spec, its host, and the places of its parts.

Source of the format: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from vmctl.errors import UsageError
from vmctl.render.choices import choose_cpu, choose_firmware, domain_type, refuse_unsupported
from vmctl.render.devices import console_view, controllers, drive_views, serial_views
from vmctl.render.facts import FirmwareImage, HostFacts
from vmctl.render.identity import mac_address, with_macs
from vmctl.render.nwfilter import nic_filters, refuse_left_out
from vmctl.render.placement import Placement
from vmctl.render.shares import share_views
from vmctl.render.templates import Templates
from vmctl.spec import ShareDriver, VMSpec
from vmctl.spec.drives import DriveKind, place_drives
from vmctl.spec.launch_security import LaunchSecurityType
from vmctl.spec.platforms import Platform, platform_of
from vmctl.spec.profiles import Profile, profile_for

__all__ = [
    "Placement",
    "disk_targets",
    "mac_address",
    "render_domain",
    "with_macs",
]

# "none" labels nothing.
_LABELLING = frozenset({"selinux", "apparmor", "dac"})
# No debugging, and for SEV no sharing of keys: AMD's SEV API 55766, table 2; SEV-SNP's ABI 56860,
# table 9 (bit 17 has to be one, and 16 allows for hyper-threading); Intel's TDX module, ATTRIBUTES.
_LEAST_POLICY = {
    LaunchSecurityType.SEV: 0x3,
    LaunchSecurityType.SEV_SNP: 0x30000,
    LaunchSecurityType.TDX: 0x10000000,
}
_BOOT_NAMES = {"disk": "hd", "cdrom": "cdrom", "network": "network", "floppy": "fd"}


def render_domain(
    spec: VMSpec, facts: HostFacts, placement: Placement, *, templates: Templates | None = None
) -> str:
    """Render the domain XML, for ``virDomainDefineXMLFlags`` with ``VALIDATE``.

    The same input gives the same bytes. NICs without a MAC address get theirs from the UUID.

    Args:
        spec: What is wanted; defaults are filled in here, if they are not yet.
        facts: What the host can do.
        placement: Where on the host the machine's parts are.
        templates: Templates to use instead of the default ones.

    Raises:
        UnsupportedError: The host can't do what the spec asks for.
        UsageError: The placement does not fit the spec.
    """
    resolved = with_macs(spec.resolved(networks=facts.privileged), placement.uuid)
    profile, platform = _policy(resolved)
    placement.check(resolved)
    refuse_unsupported(resolved, facts)
    values = _values(resolved, facts, placement, profile, platform)
    values["nic_filters"] = nic_filters(resolved, placement.addresses, templates)
    xml = (templates or Templates.default()).xml("domain.xml.j2", values)
    refuse_left_out(xml, values["nic_filters"].values())
    return xml


def _policy(spec: VMSpec) -> tuple[Profile, Platform]:
    profile = profile_for(spec.profile, spec.arch, spec.machine)
    platform = platform_of(spec.arch, spec.machine or "")
    if profile is None or platform is None:  # a spec that was never validated
        raise UsageError(
            "this spec was not validated",
            hint="make it by VMSpec(...), model_validate or load, which check it",
        )
    return profile, platform


def _values(
    spec: VMSpec, facts: HostFacts, placement: Placement, profile: Profile, platform: Platform
) -> dict[str, Any]:
    kind = domain_type(spec, facts)
    firmware = choose_firmware(spec, facts)
    drives = drive_views(spec, placement)
    shares = share_views(spec, facts)
    return {
        "spec": spec,
        "placement": placement,
        "profile": profile,
        "metadata": Markup(placement.metadata),  # noqa: S704 - a ready element of vmctl's own
        "domain_type": kind,
        "emulator": facts.emulators.get(spec.arch),
        "firmware": firmware,
        "boot_devices": _boot_devices(spec, placement),
        "cpu": choose_cpu(spec, profile, kvm=kind == "kvm", kvm_reason=facts.kvm_reason),
        "drives": drives,
        "controllers": controllers(spec, platform, profile, drives),
        "nics": spec.nics,
        "shares": shares,
        # virtiofsd works in the guest's own memory.
        "shared_memory": any(share.driver is ShareDriver.VIRTIOFS for share in shares),
        "serials": serial_views(spec, placement),
        "console": console_view(spec, placement),
        "tpm": _tpm(spec, platform),
        "labels": _labels(spec, facts),
        "launch_security": _launch_security(spec),
        **_features(platform, firmware),
    }


def _features(platform: Platform, firmware: FirmwareImage | None) -> dict[str, bool]:
    return {
        "acpi": platform.acpi or firmware is not None,
        "apic": platform.acpi,
        "smm": firmware is not None and firmware.secure_boot,
        "hpet": platform.hpet,
    }


def _boot_devices(spec: VMSpec, placement: Placement) -> list[str]:
    if placement.kernel is not None:
        return []
    return [_BOOT_NAMES[device] for device in spec.boot.order or ()]


def _tpm(spec: VMSpec, platform: Platform) -> dict[str, str] | None:
    if spec.firmware.tpm is None:
        return None
    version = spec.firmware.tpm
    return {"version": version, "model": dict(platform.tpm_models)[version]}


def _labels(spec: VMSpec, facts: HostFacts) -> list[str]:
    """Return the models by which QEMU gets a label; libvirt makes one up for each machine."""
    return [model for model in facts.security_models if spec.confined and model in _LABELLING]


def _launch_security(spec: VMSpec) -> dict[str, Any] | None:
    if spec.launch_security is None:
        return None
    wanted = spec.launch_security
    policy = _LEAST_POLICY[wanted.type] if wanted.policy is None else wanted.policy
    return {
        "type": wanted.type,
        "policy": f"0x{policy:04x}",
        "kernel_hashes": wanted.kernel_hashes,
    }


def disk_targets(spec: VMSpec) -> tuple[str, ...]:
    """The name of each disk on its bus (``vda``), in the spec's order."""
    placed = place_drives(spec.resolved())
    return tuple(drive.target for drive in placed if drive.kind is DriveKind.DISK)
