"""What a guest can rely on against its host, and against who changed its disk."""

from __future__ import annotations

from collections.abc import Iterator

from vmctl.auditing.line import AuditLine, fails, holds
from vmctl.auditing.seen import Seen

__all__ = ["judge"]


def judge(seen: Seen) -> Iterator[AuditLine]:
    """Look at secure boot, the TPM and launch security."""
    yield _secure_boot(seen)
    yield _tpm(seen)
    yield _launch_security(seen)


def _secure_boot(seen: Seen) -> AuditLine:
    loader = seen.root.find("os/loader")
    if loader is not None and loader.get("secure") == "yes":
        return holds("secure-boot", "only signed boot loaders run")
    found = "BIOS" if loader is None else "UEFI, and any boot loader runs"
    if not any(image.secure_boot for image in seen.facts.firmware):
        return fails("secure-boot", found, host="UEFI firmware with secure boot: install ovmf")
    return fails("secure-boot", found, spec="firmware: {type: uefi, secure_boot: true}")


def _tpm(seen: Seen) -> AuditLine:
    backend = seen.root.find("devices/tpm/backend")
    if backend is not None:
        return holds("tpm", f"{backend.get('type')} {backend.get('version') or ''}".rstrip())
    if not seen.facts.tpm:
        return fails("tpm", "there is none", host="swtpm")
    return fails("tpm", "there is none", spec="firmware: {tpm: true}")


def _launch_security(seen: Seen) -> AuditLine:
    node = seen.root.find("launchSecurity")
    if node is not None:
        return holds("launch-security", f"{node.get('type')}: the host can't read its memory")
    found = "the host can read its memory"
    offered = sorted({"sev", "sev-snp", "tdx"} & seen.facts.features)
    if offered:
        return fails("launch-security", found, spec=f"launch_security: {offered[-1]}")
    return fails("launch-security", found, host="a processor with SEV or TDX, and a libvirt for it")
