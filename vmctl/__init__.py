"""vmctl: the whole life of virtual machines on KVM/QEMU, through libvirt.

What stands in ``__all__`` is the public interface; each name is loaded when it is first used, so
that importing vmctl costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vmctl._version import __version__

if TYPE_CHECKING:
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
    from vmctl.guest.command import CompletedCommand
    from vmctl.guest.readiness import Deadlines
    from vmctl.host import Host, connect
    from vmctl.progress import Progress
    from vmctl.snapshots import Snapshot
    from vmctl.spec import VMSpec
    from vmctl.vm import VM

_ERRORS = "vmctl.errors"
_HOMES = {
    "CommandFailedError": _ERRORS,
    "CompletedCommand": "vmctl.guest.command",
    "ConflictError": _ERRORS,
    "Deadlines": "vmctl.guest.readiness",
    "GuestError": _ERRORS,
    "GuestUnreachableError": _ERRORS,
    "Host": "vmctl.host",
    "HostKeyMismatchError": _ERRORS,
    "HostUnavailableError": _ERRORS,
    "HypervisorError": _ERRORS,
    "ImageError": _ERRORS,
    "NotFoundError": _ERRORS,
    "PermissionDeniedError": _ERRORS,
    "Progress": "vmctl.progress",
    "ProvisioningError": _ERRORS,
    "ResourceError": _ERRORS,
    "RollbackError": _ERRORS,
    "Snapshot": "vmctl.snapshots",
    "SpecError": _ERRORS,
    "UnsupportedError": _ERRORS,
    "UsageError": _ERRORS,
    "VM": "vmctl.vm",
    "VMSpec": "vmctl.spec",
    "VmctlError": _ERRORS,
    "WaitTimeoutError": _ERRORS,
    "WrongStateError": _ERRORS,
    "connect": "vmctl.host",
}

__all__ = [
    "VM",
    "CommandFailedError",
    "CompletedCommand",
    "ConflictError",
    "Deadlines",
    "GuestError",
    "GuestUnreachableError",
    "Host",
    "HostKeyMismatchError",
    "HostUnavailableError",
    "HypervisorError",
    "ImageError",
    "NotFoundError",
    "PermissionDeniedError",
    "Progress",
    "ProvisioningError",
    "ResourceError",
    "RollbackError",
    "Snapshot",
    "SpecError",
    "UnsupportedError",
    "UsageError",
    "VMSpec",
    "VmctlError",
    "WaitTimeoutError",
    "WrongStateError",
    "__version__",
    "connect",
]


def __getattr__(name: str) -> object:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'vmctl' has no attribute {name!r}") from None
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
