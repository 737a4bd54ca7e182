"""What keeps a guest from taking its neighbours' share of the host, or learning of them."""

from __future__ import annotations

from collections.abc import Iterator

from vmctl.auditing.line import AuditLine, fails, holds
from vmctl.auditing.seen import Seen

__all__ = ["judge"]


def judge(seen: Seen) -> Iterator[AuditLine]:
    """Look at the limits of a machine, and at its memory."""
    yield _pages(seen)
    yield _cpu(seen)
    yield _disks(seen)
    yield _nics(seen)
    yield _random(seen)


def _pages(seen: Seen) -> AuditLine:
    if seen.has("memoryBacking/nosharepages"):
        return holds("page-merging", "its memory is never merged with another guest's")
    return fails("page-merging", "the host may merge it", spec="merge_pages: false")


def _cpu(seen: Seen) -> AuditLine:
    quota = seen.root.findtext("cputune/quota") or seen.root.findtext("cputune/global_quota")
    emulator = seen.root.findtext("cputune/emulator_quota")
    if quota and (emulator or seen.has("cputune/global_quota")):
        return holds("cpu-limit", f"{quota} us of a processor in each period")
    found = "QEMU's own threads take what they can"
    if "cpu-limits" in seen.facts.lacking:
        return fails("cpu-limit", found, host="cgroups: the system's libvirt")
    return fails("cpu-limit", found, spec="cpu: {limit: 100}")


def _disks(seen: Seen) -> AuditLine:
    disks = [
        node for node in seen.root.findall("devices/disk") if node.get("device", "disk") == "disk"
    ]
    free = [
        target.get("dev", "")
        for node in disks
        if node.find("iotune") is None and (target := node.find("target")) is not None
    ]
    if free:
        return fails("disk-limits", f"{', '.join(free)}: none", spec="disks: [{iotune: ...}]")
    return holds("disk-limits", f"each of its {len(disks)} disks has some")


def _nics(seen: Seen) -> AuditLine:
    nics = seen.root.findall("devices/interface")
    free = [
        mac.get("address", "")
        for node in nics
        if not _is_limited(seen, node.get("type", ""), node.find("bandwidth") is not None)
        and (mac := node.find("mac")) is not None
    ]
    if not free:
        return holds("nic-limits", f"each of its {len(nics)} NICs has some")
    found = f"{', '.join(free)}: none"
    if "shaping" in seen.facts.lacking:
        modules = "sch_htb, sch_sfq, sch_ingress and act_police"
        return fails("nic-limits", found, host=f"a kernel with {modules}")
    return fails("nic-limits", found, spec="nics: [{bandwidth: ...}], which user mode can't have")


def _is_limited(seen: Seen, kind: str, has: bool) -> bool:
    return has and kind != "user" and "shaping" not in seen.facts.lacking


def _random(seen: Seen) -> AuditLine:
    for node in seen.root.findall("devices/rng"):
        if node.find("rate") is None:
            return fails("rng-limit", "it has no rate", spec="rng: {rate_bytes: 65536}")
    return holds("rng-limit", "the host's random numbers are rationed, or none are given")
