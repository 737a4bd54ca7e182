"""What a machine may use, changed while it is there: disks, NICs, processors, memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import libvirt

from vmctl.errors import HypervisorError, UnsupportedError
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.hotplug import Scope
from vmctl.hypervisor.shaping import no_bandwidth

__all__ = [
    "MemoryUse",
    "active_vcpus",
    "attach_nic",
    "guest_vcpus",
    "memory_use",
    "set_balloon",
    "set_bandwidth",
    "set_guest_vcpus",
    "set_io_limits",
    "set_requested",
    "set_stats_period",
    "set_vcpus",
]

_IO_LIMITS = tuple(
    f"{kind}_{unit}_sec{tail}"
    for tail in ("", "_max")
    for unit in ("bytes", "iops")
    for kind in ("total", "read", "write")
)


def set_io_limits(domain: Domain, target: str, limits: dict[str, int], scope: Scope) -> None:
    """Set all limits of a disk, by libvirt's names; what is not given is not limited any more."""
    wanted = {name: limits.get(name, 0) for name in _IO_LIMITS}
    # In a call of its own what is above a limit would be refused: the limits go first.
    with calling(f"limit the disk {target} of '{domain.name}'"):
        domain.raw().setBlockIoTune(target, wanted, scope.flags)


def set_bandwidth(domain: Domain, mac: str, rates: dict[str, dict[str, int]], scope: Scope) -> None:
    """Set what a NIC may carry.

    Args:
        domain: The machine.
        mac: The NIC's address.
        rates: ``inbound`` and ``outbound``, with ``average``, ``peak`` and ``burst`` in KiB; 0 for
            none.
        scope: Where.

    Raises:
        UnsupportedError: The host's kernel can't do it.
    """
    wanted = {
        f"{way}.{name}": rates.get(way, {}).get(name, 0)
        for way in ("inbound", "outbound")
        for name in ("average", "peak", "burst")
    }
    with calling(
        f"limit the NIC {mac} of '{domain.name}'",
        on=lambda error: no_bandwidth(domain.name, error) if scope.now else None,
    ):
        # libvirt takes one of the two at a time.
        for part in (Scope(now=scope.now, later=False), Scope(now=False, later=scope.later)):
            if part.flags:
                domain.raw().setInterfaceParameters(mac, wanted, part.flags)


def attach_nic(domain: Domain, xml: str, scope: Scope, mac: str, *, limited: bool) -> None:
    """Attach a NIC.

    Raises:
        UnsupportedError: It is limited, and the host's kernel can't do that.
    """
    with calling(
        f"attach the NIC {mac} to '{domain.name}'",
        on=lambda error: no_bandwidth(domain.name, error) if limited and scope.now else None,
    ):
        domain.raw().attachDeviceFlags(xml, scope.flags)


# -- processors -----------------------------------------------------------------------------------


def active_vcpus(domain: Domain) -> int:
    """Return how many processors the running machine has."""
    with calling(f"count the processors of '{domain.name}'"):
        count: int = domain.raw().vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
        return count


def set_vcpus(domain: Domain, count: int, scope: Scope) -> None:
    """Plug processors in, or out."""
    with calling(f"give '{domain.name}' {count} processors"):
        domain.raw().setVcpusFlags(count, scope.flags)


def guest_vcpus(domain: Domain) -> int:
    """Return how many processors the guest uses, as its agent says.

    Raises:
        GuestUnreachableError: No agent answers.
    """
    return sum(bool(cpu.get("online")) for cpu in domain.agent("guest-get-vcpus", timeout=5))


def set_guest_vcpus(domain: Domain, count: int) -> None:
    """Have the agent switch processors on or off inside the guest.

    Raises:
        GuestUnreachableError: No agent answers.
    """
    cpus = domain.agent("guest-get-vcpus", timeout=5)
    fixed = [cpu for cpu in cpus if not cpu.get("can-offline", False)]
    free = [cpu for cpu in cpus if cpu.get("can-offline", False)]
    wanted = [
        {"logical-id": cpu["logical-id"], "online": number < count - len(fixed)}
        for number, cpu in enumerate(free)
    ]
    if wanted:
        domain.agent("guest-set-vcpus", {"vcpus": wanted}, timeout=30)


# -- memory ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """What the balloon driver of a guest reports, in bytes; None for what it does not say.

    Attributes:
        actual: What the machine has, without what the balloon holds.
        available: What the guest can use in all.
        usable: What of it could be had without the guest swapping.
        updated: When it was reported, in seconds.
    """

    actual: int
    available: int | None
    usable: int | None
    updated: int


def memory_use(domain: Domain) -> MemoryUse:
    """Return what the guest's balloon driver reported last."""
    with calling(f"ask for the memory of '{domain.name}'"):
        stats = domain.raw().memoryStats()

    def size(name: str) -> int | None:
        return stats[name] << 10 if name in stats else None

    return MemoryUse(
        actual=size("actual") or 0,
        available=size("available"),
        usable=size("usable"),
        updated=stats.get("last_update", 0),
    )


def set_stats_period(domain: Domain, seconds: int) -> None:
    """Have the guest's balloon driver report every so many seconds; 0 for never."""
    with calling(f"ask for the memory of '{domain.name}'"), suppress(libvirt.libvirtError):
        domain.raw().setMemoryStatsPeriod(seconds, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def set_balloon(domain: Domain, size: int) -> None:
    """Ask the guest's balloon driver to leave the running machine with so many bytes."""
    with calling(f"change the memory of '{domain.name}'"):
        domain.raw().setMemoryFlags(size >> 10, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def set_requested(domain: Domain, xml: str) -> None:
    """Change how much of a virtio-mem device the guest shall use.

    Raises:
        UnsupportedError: libvirt or QEMU can't.
    """
    try:
        with calling(f"change the memory of '{domain.name}'"):
            domain.raw().updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except HypervisorError as error:
        raise UnsupportedError(error.brief, details=error.details, hint=error.hint) from error
