"""What holds QEMU itself, should a guest break out into it."""

from __future__ import annotations

from collections.abc import Iterator

from vmctl.auditing.line import AuditLine, fails, holds, unknown
from vmctl.auditing.seen import Seen

__all__ = ["judge"]

_CONFINING = ("selinux", "apparmor")
# QEMU's own words: https://www.qemu.org/docs/master/system/security.html
_SECURE_MACHINES = ("q35", "i440fx", "pc", "virt", "microvm")


def judge(seen: Seen) -> Iterator[AuditLine]:
    """Look at QEMU's process, at what the host confines it by, and at what it emulates."""
    yield _accelerator(seen)
    yield _machine(seen)
    yield _label(seen)
    yield _user(seen)
    yield _seccomp(seen)
    yield _files(seen)
    yield _seed(seen)


def _accelerator(seen: Seen) -> AuditLine:
    check = "accelerator"
    if seen.root.get("type") == "kvm":
        return holds(check, "kvm: the processor keeps the guest in")
    found = "emulation, which QEMU does not count as a border"
    if seen.facts.kvm:
        return fails(check, found, spec="accel: kvm")
    return fails(check, found, host=f"KVM that works; {seen.facts.kvm_reason}".rstrip("; "))


def _machine(seen: Seen) -> AuditLine:
    node = seen.root.find("os/type")
    kind = "" if node is None else node.get("machine", "")
    # isapc is one that begins with neither.
    names = kind.removeprefix("pc-").split("-")
    if names[0] in _SECURE_MACHINES:
        return holds("machine-type", kind)
    return fails("machine-type", f"{kind}, whose devices QEMU does not secure", spec="machine: q35")


def _label(seen: Seen) -> AuditLine:
    check = "security-label"
    offered = [model for model in seen.facts.security_models if model in _CONFINING]
    if not offered:
        return fails(
            check,
            f"the host confines by {', '.join(seen.facts.security_models) or 'nothing'}",
            host="SELinux or AppArmor, and security_driver in qemu.conf",
        )
    for node in seen.root.findall("seclabel"):
        if node.get("model") not in offered:
            continue
        if node.get("type") == "none":
            return fails(
                check, f"{node.get('model')} is switched off for it", spec="confined: true"
            )
        label = node.findtext("label")
        if label:
            return holds(check, f"{node.get('model')}: {label}")
        return holds(check, f"{node.get('model')}, of its own at each start")
    if seen.running:
        return fails(check, f"{offered[0]} is there, and it has no label", spec="confined: true")
    return unknown(check, f"{offered[0]} is there; the label is seen when it runs")


def _user(seen: Seen) -> AuditLine:
    check = "unprivileged"
    if seen.process is not None:
        who = f"user {seen.process.user}, process {seen.process.pid}"
        if seen.process.user == 0:
            return fails(check, "QEMU runs as root", host='user = "libvirt-qemu" in qemu.conf')
        if seen.process.capabilities:
            return fails(
                check,
                f"{who}, with capabilities {seen.process.capabilities:x}",
                host="clear_emulator_capabilities = 1 in qemu.conf",
            )
        return holds(check, who)
    for node in seen.root.findall("seclabel[@model='dac']"):
        label = node.findtext("label") or ""
        if label and not label.startswith("+0:"):
            return holds(check, f"QEMU runs as {label}")
        if label:
            return fails(check, "QEMU runs as root", host='user = "libvirt-qemu" in qemu.conf')
    return unknown(check, "the process runs elsewhere, or not at all")


def _seccomp(seen: Seen) -> AuditLine:
    check = "seccomp"
    mend = "seccomp_sandbox = 1 in qemu.conf, and a QEMU that was built with it"
    if seen.process is not None:
        if seen.process.seccomp == 2:  # a filter
            return holds(check, "QEMU's process has a filter of system calls")
        return fails(check, "QEMU's process may make any system call", host=mend)
    if not seen.argv:
        return unknown(check, "libvirt doesn't say what it starts QEMU with")
    for option, value in zip(seen.argv, seen.argv[1:], strict=False):
        if option == "-sandbox" and value.startswith("on"):
            return holds(check, f"-sandbox {value}")
    return fails(check, "QEMU is started without its sandbox", host=mend)


def _files(seen: Seen) -> AuditLine:
    check = "files"
    modes = {file.name: file.mode for file in seen.files if file.mode is not None}
    open_ = [f"{name} ({mode:o})" for name, mode in modes.items() if mode & 0o007]
    if open_:
        return fails(
            check,
            f"everybody on the host may read {', '.join(open_)}",
            host="chmod o= on them, and a pool that makes files so",
        )
    if not modes:
        return unknown(check, "vmctl knows of no files of it")
    return holds(check, f"none of its {len(modes)} files is for everybody")


def _seed(seen: Seen) -> AuditLine:
    if not seen.has_seed:
        return holds("seed", "there is none any more")
    mode = next((file.mode for file in seen.files if file.role == "seed"), None)
    if mode is not None and mode & 0o007:
        return fails("seed", "everybody on the host may read its secrets", host="chmod 0600 on it")
    if mode is None:
        return unknown("seed", "it is there, and its pool doesn't say who may read it")
    return holds("seed", f"it is there until the guest is ready, with mode {mode:o}")
