"""What a host can do: asked of libvirt, never assumed.

https://libvirt.org/formatcaps.html and https://libvirt.org/formatdomaincaps.html
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import libvirt
from lxml import etree

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.lacking import known_to_lack
from vmctl.hypervisor.vhost_user import lacks_virtiofsd
from vmctl.render.facts import FirmwareImage, HostFacts

__all__ = ["read_facts"]

# libvirt names the code of a UEFI firmware, but not the variable store that belongs to it
# (that is in QEMU's firmware descriptors, which can't be read over a connection). Distributions
# name them alike, so the code's file name tells: code -> (variable store, secure boot).
_STORES = {
    "OVMF_CODE_4M.fd": ("OVMF_VARS_4M.fd", False),
    "OVMF_CODE_4M.ms.fd": ("OVMF_VARS_4M.ms.fd", True),
    "OVMF_CODE_4M.secboot.fd": ("OVMF_VARS_4M.ms.fd", True),
    "OVMF_CODE.fd": ("OVMF_VARS.fd", False),
    "OVMF_CODE.ms.fd": ("OVMF_VARS.ms.fd", True),
    "OVMF_CODE.secboot.fd": ("OVMF_VARS.ms.fd", True),
    "AAVMF_CODE.fd": ("AAVMF_VARS.fd", False),
    "AAVMF_CODE.no-secboot.fd": ("AAVMF_VARS.fd", False),
    "AAVMF_CODE.ms.fd": ("AAVMF_VARS.ms.fd", True),
}
# Red Hat's edk2 keeps the enrolled store under another name.
_EDK2_STORES = {
    "OVMF_CODE.fd": ("OVMF_VARS.fd", False),
    "OVMF_CODE.secboot.fd": ("OVMF_VARS.secboot.fd", True),
}


def read_facts(connection: Connection) -> HostFacts:
    """Ask a host what it can do."""
    raw = connection.raw
    with calling("ask the host for its capabilities"):
        host = etree.fromstring(raw.getCapabilities())
        arch = host.findtext("host/cpu/arch") or "x86_64"
        offered = _offers_kvm(host, arch)
        kvm, reason = _kvm(raw, host, arch)
        limits = _domain_capabilities(raw, arch, kvm=kvm)
        _model, megabytes, cpus, *_rest = raw.getInfo()
        return HostFacts(
            arch=arch,
            libvirt_version=_version(raw.getLibVersion()),
            qemu_version=_version(raw.getVersion()),
            kvm=kvm,
            kvm_offered=offered,
            kvm_reason=reason,
            emulators=_emulators(host),
            machines=_machines(host),
            firmware=_firmware(limits),
            tpm=_offers(limits, "devices/tpm", "backendModel", "emulator"),
            features=_features(raw, limits) - _missing(connection.uri),
            lacking=known_to_lack(connection.uri, privileged=_is_privileged(raw)),
            security_models=tuple(
                node.text or "" for node in host.findall("host/secmodel/model") if node.text
            ),
            memory=_memory(raw) or megabytes << 20,
            cpus=cpus,
            privileged=_is_privileged(raw),
        )


def _is_privileged(raw: Any) -> bool:
    return bool(raw.getURI().partition("?")[0].endswith("/system"))


def _memory(raw: Any) -> int | None:
    """Return the bytes of memory of all NUMA cells; ``virNodeInfo`` may know only of one."""
    # The test driver has no such figures.
    with suppress(libvirt.libvirtError):
        total: int = raw.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)["total"]
        return total << 10
    return None


def _version(number: int) -> tuple[int, int, int]:
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def _offers_kvm(host: etree._Element, arch: str) -> bool:
    return bool(host.xpath("guest/arch[@name=$arch]/domain[@type='kvm']", arch=arch))


def _kvm(raw: Any, host: etree._Element, arch: str) -> tuple[bool, str]:
    """Return whether KVM works, and why it does or doesn't.

    There are hosts on which /dev/kvm opens and libvirt offers KVM, and every guest hangs. Their
    processors show neither vmx nor svm, without which no x86 guest runs on KVM.
    """
    if not _offers_kvm(host, arch):
        return False, "libvirt offers no KVM here: /dev/kvm is missing, or may not be used"
    if arch not in {"x86_64", "i686"}:
        return True, "libvirt offers KVM"
    known = _cpu_features(raw, host)
    for feature in ("vmx", "svm"):
        if feature in known:
            return True, f"libvirt offers KVM, and the processor has {feature}"
    return (
        False,
        "libvirt offers KVM, but the processor shows neither vmx nor svm: guests would hang",
    )


def _cpu_features(raw: Any, host: etree._Element) -> set[str]:
    """Return the names of the host processor's features, those its model implies included."""
    cpu = host.find("host/cpu")
    if cpu is None:
        return set()
    named = {node.get("name") or "" for node in cpu.findall("feature")}
    # Where the processor has no model libvirt knows, the named ones are all there is to know.
    with suppress(libvirt.libvirtError):
        expanded = etree.fromstring(
            raw.baselineCPU(
                [etree.tostring(cpu, encoding="unicode")],
                libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES,
            )
        )
        named |= {node.get("name") or "" for node in expanded.findall("feature")}
    return named


def _domain_capabilities(raw: Any, arch: str, *, kvm: bool) -> etree._Element:
    machine = "q35" if arch in {"x86_64", "i686"} else "virt"
    # The test driver, and a host without that emulator, have none to offer.
    with suppress(libvirt.libvirtError):
        return etree.fromstring(
            raw.getDomainCapabilities(None, arch, machine, "kvm" if kvm else "qemu", 0)
        )
    return etree.Element("domainCapabilities")


def _emulators(host: etree._Element) -> dict[str, str]:
    return {
        arch.get("name") or "": arch.findtext("emulator") or ""
        for arch in host.findall("guest/arch")
    }


def _machines(host: etree._Element) -> dict[str, tuple[str, ...]]:
    return {
        arch.get("name") or "": tuple(
            sorted(
                {node.text or "" for node in arch.findall("machine")}
                | {node.get("canonical") or "" for node in arch.findall("machine[@canonical]")}
            )
        )
        for arch in host.findall("guest/arch")
    }


def _firmware(limits: etree._Element) -> tuple[FirmwareImage, ...]:
    found = []
    for node in limits.findall("os/loader/value"):
        folder, _, name = (node.text or "").rpartition("/")
        stores = _EDK2_STORES if "/edk2/" in folder else _STORES
        if name in stores:
            store, secure = stores[name]
            found.append(
                FirmwareImage(
                    loader=f"{folder}/{name}",
                    nvram_template=f"{folder}/{store}",
                    secure_boot=secure,
                )
            )
    return tuple(found)


def _offers(limits: etree._Element, device: str, enum: str, value: str) -> bool:
    node = limits.find(device)
    if node is None or node.get("supported") != "yes":
        return False
    return any(entry.text == value for entry in node.findall(f"enum[@name='{enum}']/value"))


def _missing(uri: str) -> frozenset[str]:
    """Return what QEMU can do, and another program that it takes is missing for."""
    return frozenset({"virtiofs"} if lacks_virtiofsd(uri) else ())


def _launch_security(limits: etree._Element) -> set[str]:
    """Return what can encrypt a guest's memory; older libvirts name SEV alone."""
    sev = limits.find("features/sev")
    found = {"sev"} if sev is not None and sev.get("supported") == "yes" else set()
    known = ("sev", "sev-snp", "tdx")
    return found | {
        kind for kind in known if _offers(limits, "features/launchSecurity", "sectype", kind)
    }


def _features(raw: Any, limits: etree._Element) -> frozenset[str]:
    found = set()
    if _offers(limits, "devices/graphics", "type", "spice"):
        found.add("spice")
    # libvirt's word for 9p is "path", as it is for a container's bind mount.
    found |= {
        name
        for name, value in (("virtiofs", "virtiofs"), ("9p", "path"))
        if _offers(limits, "devices/filesystem", "driverType", value)
    }
    found |= _launch_security(limits)
    # https://libvirt.org/news.html#v10-10-0-2024-12-02
    if _version(raw.getLibVersion()) >= (10, 10, 0):
        found.add("internal-snapshot-nvram")
    # https://libvirt.org/news.html#v7-9-0-2021-11-01; QEMU has it since 5.1.
    if _version(raw.getLibVersion()) >= (7, 9, 0):
        found.add("virtio-mem")
    return frozenset(found)
