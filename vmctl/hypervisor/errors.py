"""libvirt's error codes, mapped to vmctl's error tree: the only place where that happens.

The codes are those of ``virErrorNumber`` (https://libvirt.org/html/libvirt-virterror.html). Texts
are passed on as details and never decide anything.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import libvirt

from vmctl.errors import (
    ConflictError,
    GuestUnreachableError,
    HostUnavailableError,
    HypervisorError,
    NotFoundError,
    PermissionDeniedError,
    ResourceError,
    UnsupportedError,
    VmctlError,
    WaitTimeoutError,
    WrongStateError,
)

__all__ = ["calling", "is_code", "translate"]

_NOT_FOUND = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
        libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT,
        libvirt.VIR_ERR_NO_DOMAIN_METADATA,
        libvirt.VIR_ERR_DEVICE_MISSING,
    }
)
_CONFLICT = frozenset(
    {
        libvirt.VIR_ERR_DOM_EXIST,
        libvirt.VIR_ERR_NETWORK_EXIST,
        libvirt.VIR_ERR_STORAGE_VOL_EXIST,
        libvirt.VIR_ERR_RESOURCE_BUSY,
    }
)
_DENIED = frozenset(
    {
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_ACCESS_DENIED,
        libvirt.VIR_ERR_OPERATION_DENIED,
    }
)
_UNAVAILABLE = frozenset({libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN})
_UNSUPPORTED = frozenset(
    {
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    }
)
_AGENT = frozenset({libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED})
_HINT_DENIED = "run as root, or join the group that may use libvirt (on Debian: libvirt)"
_HINT_LOG = "libvirtd's log on the host, and /var/log/libvirt/qemu there, may say more"
_HINT_CONFLICT = "somebody else has it, or is at work on it: try again, or choose another"
_HINT_UNAVAILABLE = "see what is missing with `vmctl doctor`"
_BY_CODE: tuple[tuple[frozenset[int], type[VmctlError], str], ...] = (
    (_NOT_FOUND, NotFoundError, "somebody may have removed it; `vmctl list` shows what there is"),
    (_CONFLICT, ConflictError, _HINT_CONFLICT),
    (_DENIED, PermissionDeniedError, _HINT_DENIED),
    (_UNAVAILABLE, HostUnavailableError, _HINT_UNAVAILABLE),
    (
        _UNSUPPORTED,
        UnsupportedError,
        "`vmctl doctor` shows what the host has; a newer one may do it",
    ),
    (_AGENT, GuestUnreachableError, "is qemu-guest-agent running in the guest? `vmctl logs`"),
    (
        frozenset({libvirt.VIR_ERR_NO_MEMORY}),
        ResourceError,
        "give the machine less memory, or end others",
    ),
)
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG})
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM})


def translate(error: libvirt.libvirtError, doing: str) -> VmctlError:
    """Return the error of vmctl's tree that says what ``error`` says.

    Args:
        error: What libvirt raised.
        doing: What was being done, as it continues "could not ...".
    """
    code = error.get_error_code() or 0
    text = (error.get_error_message() or str(error)).strip()
    brief = f"could not {doing}"
    if code == libvirt.VIR_ERR_OPERATION_INVALID:
        return WrongStateError(
            brief, state="unknown", details=text, hint="see what state it is in: `vmctl info`"
        )
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return WaitTimeoutError(
            brief,
            phase=doing,
            details=text,
            hint="the host is busy or hangs; try again, and see `vmctl doctor`; where it stays so, "
            "restart its libvirtd: guests run on",
        )
    if _is_lost_connection(error, code):
        return HostUnavailableError(brief, details=text, hint=_HINT_UNAVAILABLE)
    if code == libvirt.VIR_ERR_SYSTEM_ERROR:
        return _system_error(error, brief, text)
    for codes, kind, hint in _BY_CODE:
        if code in codes:
            return kind(brief, details=text, hint=hint)
    return HypervisorError(brief, code=code, details=text, hint=_HINT_LOG)


def _system_error(error: libvirt.libvirtError, brief: str, text: str) -> VmctlError:
    # int1 of a system error is errno (virReportSystemError).
    number = error.get_int1() or 0
    if number in _NO_SPACE:
        return ResourceError(
            brief, details=text, hint="make room on the host, or choose another pool"
        )
    if number in _NO_ACCESS:
        return PermissionDeniedError(brief, details=text, hint="see `vmctl doctor`")
    return HypervisorError(brief, code=libvirt.VIR_ERR_SYSTEM_ERROR, details=text, hint=_HINT_LOG)


def _is_lost_connection(error: libvirt.libvirtError, code: int) -> bool:
    # A connection that went away is reported as an internal or system error of the RPC layer.
    lost = (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_RPC)
    layers = (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
    refused = code == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() in _NO_ACCESS
    return code in lost and error.get_error_domain() in layers and not refused


def is_code(error: BaseException | None, *codes: int) -> bool:
    """Return whether ``error`` is libvirt's, with one of ``codes``."""
    return isinstance(error, libvirt.libvirtError) and error.get_error_code() in codes


@contextmanager
def calling(
    doing: str, *, on: Callable[[libvirt.libvirtError], VmctlError | None] | None = None
) -> Iterator[None]:
    """Turn what libvirt raises inside into vmctl's errors.

    Args:
        doing: What is being done, as it continues "could not ...".
        on: Asked first; the error it returns is raised, None leaves it to `translate`.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        special = on(error) if on is not None else None
        raise (special or translate(error, doing)) from error
