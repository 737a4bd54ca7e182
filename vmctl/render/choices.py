"""What the host decides: accelerator, CPU mode, firmware. What it can't do is refused here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from vmctl.errors import UnsupportedError
from vmctl.render.facts import FirmwareImage, HostFacts
from vmctl.spec import Accel, Arch, CpuMode, FirmwareType, NicSpec, NicType, VMSpec
from vmctl.spec.launch_security import LaunchSecurityType
from vmctl.spec.profiles import Profile

__all__ = ["CpuChoice", "choose_cpu", "choose_firmware", "domain_type", "refuse_unsupported"]

_NATIVE = {"x86_64": {Arch.X86_64, Arch.I686}, "i686": {Arch.I686}, "aarch64": {Arch.AARCH64}}
_HINT_ACCEL = "write accel: tcg, or leave it out"
_NEEDS_KVM = {CpuMode.HOST_PASSTHROUGH, CpuMode.HOST_MODEL}


@dataclass(frozen=True, kw_only=True)
class CpuChoice:
    """The CPU's mode, and its model where the mode is custom."""

    mode: CpuMode
    model: str | None


def domain_type(spec: VMSpec, facts: HostFacts) -> str:
    """Choose libvirt's domain type, ``kvm`` or ``qemu``.

    Raises:
        UnsupportedError: KVM is asked for, and the host has none for this guest.
    """
    native = spec.arch in _NATIVE.get(facts.arch, set())
    if spec.accel is Accel.KVM:
        if not native:
            raise UnsupportedError(
                f"accel is kvm, and KVM on this {facts.arch} host can't run an {spec.arch} guest",
                hint=_HINT_ACCEL,
            )
        if not facts.kvm_offered:
            raise UnsupportedError(
                f"accel is kvm, and the host has no KVM: {facts.kvm_reason}",
                hint=_HINT_ACCEL,
            )
        return "kvm"
    return "kvm" if spec.accel is Accel.AUTO and facts.kvm and native else "qemu"


def choose_cpu(spec: VMSpec, profile: Profile, *, kvm: bool, kvm_reason: str = "") -> CpuChoice:
    """Choose the CPU's mode.

    Raises:
        UnsupportedError: The spec asks for the host's own CPU, and the guest runs without KVM.
    """
    if spec.cpu.mode is None and spec.cpu.model is not None:
        return CpuChoice(mode=CpuMode.CUSTOM, model=spec.cpu.model)
    if spec.cpu.mode is None:
        mode = profile.cpu_mode_kvm if kvm else profile.cpu_mode_tcg
        return CpuChoice(mode=mode, model=profile.cpu_model if mode is CpuMode.CUSTOM else None)
    if spec.cpu.mode in _NEEDS_KVM and not kvm:
        why = f" ({kvm_reason})" if kvm_reason else ""
        raise UnsupportedError(
            f"cpu.mode {spec.cpu.mode} needs KVM, and this guest would run without it{why}",
            hint="leave cpu.mode out, or write maximum",
        )
    return CpuChoice(mode=spec.cpu.mode, model=spec.cpu.model)


def choose_firmware(spec: VMSpec, facts: HostFacts) -> FirmwareImage | None:
    """Choose the UEFI image; None for a BIOS.

    Raises:
        UnsupportedError: The host has no such image.
    """
    if spec.firmware.type is not FirmwareType.UEFI:
        return None
    wanted = "UEFI firmware with secure boot" if spec.firmware.secure_boot else "UEFI firmware"
    if spec.arch != facts.arch:
        raise UnsupportedError(
            f"vmctl knows this {facts.arch} host's {wanted} for {facts.arch} guests only, "
            f"and this one is {spec.arch}",
            hint="use firmware: bios, or a host of the guest's architecture",
        )
    for image in facts.firmware:
        if image.secure_boot == spec.firmware.secure_boot:
            return image
    raise UnsupportedError(
        f"the host has no {wanted} for {spec.arch}",
        hint=f"install {'qemu-efi-aarch64' if spec.arch is Arch.AARCH64 else 'ovmf'} on the host",
    )


def refuse_unsupported(spec: VMSpec, facts: HostFacts) -> None:
    """Refuse what the host can't do, before anything is made.

    Raises:
        UnsupportedError: In one sentence, what is missing.
    """
    if facts.emulators and spec.arch not in facts.emulators:
        package = "qemu-system-arm" if spec.arch is Arch.AARCH64 else "qemu-system-x86"
        raise UnsupportedError(
            f"the host has no emulator for {spec.arch}", hint=f"install {package} on the host"
        )
    _refuse_machine(spec, facts)
    if spec.firmware.tpm is not None and not facts.tpm:
        raise UnsupportedError("the host has no emulated TPM", hint="install swtpm on the host")
    if any(server.type == "spice" for server in spec.graphics) and "spice" not in facts.features:
        raise UnsupportedError("the host's QEMU has no SPICE", hint="use type: vnc")
    if spec.cpu.limit is not None and "cpu-limits" in facts.lacking:
        raise UnsupportedError(
            "the host puts guests into no cgroups, so that cpu.limit can't be had",
            hint="leave cpu.limit out, or use the system's libvirt",
        )
    if spec.launch_security is not None:
        _refuse_launch_security(spec.launch_security.type, facts)
    for index, nic in enumerate(spec.nics):
        refuse_nic(nic, f"nics[{index}]", facts)


def refuse_nic(nic: NicSpec, called: str, facts: HostFacts) -> None:
    """Refuse a NIC that the host can't have.

    Raises:
        UnsupportedError: In one sentence, what is missing.
    """
    if not facts.privileged and nic.type is not NicType.USER:
        raise UnsupportedError(
            f"{called} joins a {nic.type}, and a session's libvirt has none",
            hint="write user: true for it, or connect to qemu:///system",
        )
    if nic.fence is not None and "bridge-filters" in facts.lacking:
        raise UnsupportedError(
            f"{called} is a tenant's, and the host's kernel doesn't show its firewall what bridges "
            "carry: nothing would keep its guest from the host",
            hint="sysctl -w net.bridge.bridge-nf-call-iptables=1 "
            "net.bridge.bridge-nf-call-ip6tables=1, on the host",
        )
    if nic.bandwidth is not None and "shaping" in facts.lacking:
        raise UnsupportedError(
            f"{called} has a bandwidth, and the host's kernel lacks what shapes traffic",
            hint="leave bandwidth out, or use a kernel with sch_htb, sch_sfq, sch_ingress and "
            "act_police",
        )


def _refuse_launch_security(kind: LaunchSecurityType, facts: HostFacts) -> None:
    if kind in facts.features:
        return
    version = ".".join(map(str, facts.libvirt_version))
    raise UnsupportedError(
        f"the host offers its guests no launch security of type {kind}: its processor, its "
        f"firmware, its kernel or its libvirt ({version}) has none",
        hint="`virsh domcapabilities` says what it offers (libvirt knows sev from 4.5 on, sev-snp "
        "from 10.5 on and tdx from 11.6 on); or leave launch_security out",
    )


def _refuse_machine(spec: VMSpec, facts: HostFacts) -> None:
    known = facts.machines.get(spec.arch, ())
    machine = spec.machine or ""
    if not known or machine in known:
        return
    near = difflib.get_close_matches(machine, known, n=3)
    raise UnsupportedError(
        f"the host's QEMU has no machine type {machine} for {spec.arch}",
        hint=f"it has {', '.join(near)}" if near else "`virsh capabilities` lists those it has",
    )
