"""vmctl: the whole life of virtual machines on KVM/QEMU, through libvirt.

What stands in ``__all__`` is the public interface; each name is loaded when it is first used, so
that importing vmctl costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl._lazy import loaded_when_used
from vmctl._version import __version__

if TYPE_CHECKING:
    from vmctl.agent import GuestAgent
    from vmctl.audit import Audit, AuditLine
    from vmctl.backups import Backup, Backups, Pruned, Retention, Verified
    from vmctl.devices.disks import AttachedDisk
    from vmctl.devices.media import CdromDrive
    from vmctl.devices.memory import Memory
    from vmctl.devices.nics import AttachedNic
    from vmctl.devices.ports import PublishedPort
    from vmctl.devices.processors import Processors
    from vmctl.doctor import Check, examine
    from vmctl.errors import (
        CommandFailedError,
        ConflictError,
        GuestError,
        GuestUnreachableError,
        HostKeyMismatchError,
        HostUnavailableError,
        HypervisorError,
        ImageError,
        NotFoundError,
        PermissionDeniedError,
        ProvisioningError,
        ResourceError,
        RollbackError,
        SpecError,
        UnsupportedError,
        UsageError,
        VmctlError,
        WaitTimeoutError,
        WrongStateError,
    )
    from vmctl.events import Event, EventKind, EventListener, EventStream
    from vmctl.gc import Leftover
    from vmctl.guest.agent_facts import GuestFilesystem, GuestInfo, GuestUser
    from vmctl.guest.command import CompletedCommand
    from vmctl.guest.console_session import Console
    from vmctl.guest.copying import CopiedFiles
    from vmctl.guest.expecting import ConsoleMatch
    from vmctl.guest.readiness import Deadlines
    from vmctl.host import Host, connect
    from vmctl.hosts import HostSummary, list_hosts, start_host, stop_host
    from vmctl.hypervisor.displays import Display
    from vmctl.info import MachineInfo, MachineSummary
    from vmctl.intent.applying import Applied
    from vmctl.intent.differences import Difference
    from vmctl.intent.drift import Deviation
    from vmctl.intent.planning import ChangePlan
    from vmctl.marked_block import write_block
    from vmctl.networking.comparing import NetworkDifference, NetworkPlan
    from vmctl.networking.discovery import AddressReport
    from vmctl.networks import NetworkApplied, NetworkInfo, NetworkLease, NetworkReservation
    from vmctl.pools import PoolInfo
    from vmctl.power import StartReport
    from vmctl.preview import Preview, preview_documents
    from vmctl.progress import Progress
    from vmctl.security_groups import SecurityGroupInfo
    from vmctl.snapshots import Snapshot
    from vmctl.spec import (
        BandwidthSpec,
        DiskSpec,
        ForwardSpec,
        IoTuneSpec,
        NetworkSpec,
        NicSpec,
        PoolSpec,
        SecurityGroupSpec,
        VMSpec,
    )
    from vmctl.stats import MachineStats
    from vmctl.stopping import StopDeadlines, StopReport, StopStep
    from vmctl.vm import VM
    from vmctl.volumes import VolumeInfo, VolumeSummary

_ERRORS = "vmctl.errors"
_HOMES = {
    "AddressReport": "vmctl.networking.discovery",
    "Applied": "vmctl.intent.applying",
    "AttachedDisk": "vmctl.devices.disks",
    "AttachedNic": "vmctl.devices.nics",
    "Audit": "vmctl.audit",
    "AuditLine": "vmctl.audit",
    "Backup": "vmctl.backups",
    "Backups": "vmctl.backups",
    "BandwidthSpec": "vmctl.spec",
    "CdromDrive": "vmctl.devices.media",
    "ChangePlan": "vmctl.intent.planning",
    "Check": "vmctl.doctor",
    "CommandFailedError": _ERRORS,
    "CompletedCommand": "vmctl.guest.command",
    "ConflictError": _ERRORS,
    "Console": "vmctl.guest.console_session",
    "ConsoleMatch": "vmctl.guest.expecting",
    "CopiedFiles": "vmctl.guest.copying",
    "Deadlines": "vmctl.guest.readiness",
    "Deviation": "vmctl.intent.drift",
    "Difference": "vmctl.intent.differences",
    "DiskSpec": "vmctl.spec",
    "Display": "vmctl.hypervisor.displays",
    "Event": "vmctl.events",
    "EventKind": "vmctl.events",
    "EventListener": "vmctl.events",
    "EventStream": "vmctl.events",
    "ForwardSpec": "vmctl.spec",
    "GuestAgent": "vmctl.agent",
    "GuestError": _ERRORS,
    "GuestFilesystem": "vmctl.guest.agent_facts",
    "GuestInfo": "vmctl.guest.agent_facts",
    "GuestUnreachableError": _ERRORS,
    "GuestUser": "vmctl.guest.agent_facts",
    "Host": "vmctl.host",
    "HostKeyMismatchError": _ERRORS,
    "HostSummary": "vmctl.hosts",
    "HostUnavailableError": _ERRORS,
    "HypervisorError": _ERRORS,
    "ImageError": _ERRORS,
    "IoTuneSpec": "vmctl.spec",
    "Leftover": "vmctl.gc",
    "MachineInfo": "vmctl.info",
    "MachineStats": "vmctl.stats",
    "MachineSummary": "vmctl.info",
    "Memory": "vmctl.devices.memory",
    "NetworkApplied": "vmctl.networks",
    "NetworkDifference": "vmctl.networking.comparing",
    "NetworkInfo": "vmctl.networks",
    "NetworkLease": "vmctl.networks",
    "NetworkPlan": "vmctl.networking.comparing",
    "NetworkReservation": "vmctl.networks",
    "NetworkSpec": "vmctl.spec",
    "NicSpec": "vmctl.spec",
    "NotFoundError": _ERRORS,
    "PermissionDeniedError": _ERRORS,
    "PoolInfo": "vmctl.pools",
    "PoolSpec": "vmctl.spec",
    "Preview": "vmctl.preview",
    "Processors": "vmctl.devices.processors",
    "Progress": "vmctl.progress",
    "ProvisioningError": _ERRORS,
    "Pruned": "vmctl.backups",
    "PublishedPort": "vmctl.devices.ports",
    "ResourceError": _ERRORS,
    "Retention": "vmctl.backups",
    "RollbackError": _ERRORS,
    "Snapshot": "vmctl.snapshots",
    "SecurityGroupInfo": "vmctl.security_groups",
    "SecurityGroupSpec": "vmctl.spec",
    "SpecError": _ERRORS,
    "StartReport": "vmctl.power",
    "StopDeadlines": "vmctl.stopping",
    "StopReport": "vmctl.stopping",
    "StopStep": "vmctl.stopping",
    "UnsupportedError": _ERRORS,
    "UsageError": _ERRORS,
    "VM": "vmctl.vm",
    "VMSpec": "vmctl.spec",
    "Verified": "vmctl.backups",
    "VmctlError": _ERRORS,
    "VolumeInfo": "vmctl.volumes",
    "VolumeSummary": "vmctl.volumes",
    "WaitTimeoutError": _ERRORS,
    "WrongStateError": _ERRORS,
    "connect": "vmctl.host",
    "examine": "vmctl.doctor",
    "list_hosts": "vmctl.hosts",
    "preview_documents": "vmctl.preview",
    "start_host": "vmctl.hosts",
    "stop_host": "vmctl.hosts",
    "write_block": "vmctl.marked_block",
}

__all__ = [
    "VM",
    "AddressReport",
    "Applied",
    "AttachedDisk",
    "AttachedNic",
    "Audit",
    "AuditLine",
    "Backup",
    "Backups",
    "BandwidthSpec",
    "CdromDrive",
    "ChangePlan",
    "Check",
    "CommandFailedError",
    "CompletedCommand",
    "ConflictError",
    "Console",
    "ConsoleMatch",
    "CopiedFiles",
    "Deadlines",
    "Deviation",
    "Difference",
    "DiskSpec",
    "Display",
    "Event",
    "EventKind",
    "EventListener",
    "EventStream",
    "ForwardSpec",
    "GuestAgent",
    "GuestError",
    "GuestFilesystem",
    "GuestInfo",
    "GuestUnreachableError",
    "GuestUser",
    "Host",
    "HostKeyMismatchError",
    "HostSummary",
    "HostUnavailableError",
    "HypervisorError",
    "ImageError",
    "IoTuneSpec",
    "Leftover",
    "MachineInfo",
    "MachineStats",
    "MachineSummary",
    "Memory",
    "NetworkApplied",
    "NetworkDifference",
    "NetworkInfo",
    "NetworkLease",
    "NetworkPlan",
    "NetworkReservation",
    "NetworkSpec",
    "NicSpec",
    "NotFoundError",
    "PermissionDeniedError",
    "PoolInfo",
    "PoolSpec",
    "Preview",
    "Processors",
    "Progress",
    "ProvisioningError",
    "Pruned",
    "PublishedPort",
    "ResourceError",
    "Retention",
    "RollbackError",
    "SecurityGroupInfo",
    "SecurityGroupSpec",
    "Snapshot",
    "SpecError",
    "StartReport",
    "StopDeadlines",
    "StopReport",
    "StopStep",
    "UnsupportedError",
    "UsageError",
    "VMSpec",
    "Verified",
    "VmctlError",
    "VolumeInfo",
    "VolumeSummary",
    "WaitTimeoutError",
    "WrongStateError",
    "__version__",
    "connect",
    "examine",
    "list_hosts",
    "preview_documents",
    "start_host",
    "stop_host",
    "write_block",
]


__getattr__ = loaded_when_used(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
