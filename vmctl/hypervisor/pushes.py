"""The disks of a running machine copied by QEMU, all of them as they are at one moment.

The guest runs on. libvirt calls it a backup that is pushed:
https://libvirt.org/formatbackup.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import (
    ConflictError,
    HypervisorError,
    NotFoundError,
    UnsupportedError,
    VmctlError,
    WaitTimeoutError,
    WrongStateError,
)
from vmctl.hypervisor.connection import Connection, outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["PushTarget", "await_push", "begin_push", "end_push"]

_LONGEST_SECONDS = 86400.0


@dataclass(frozen=True, kw_only=True)
class PushTarget:
    """Where a disk is copied to: a volume that is there, and how it is written."""

    path: str
    format: str


def begin_push(domain: Domain, targets: Mapping[str, PushTarget]) -> None:
    """Begin to copy disks of a running machine; what is copied is what they are now.

    Args:
        domain: The machine.
        targets: Where to, by the disks' names on their buses.

    Raises:
        ConflictError: Another job is under way on it.
        UnsupportedError: This libvirt or QEMU can't.
        WrongStateError: It does not run.
    """
    xml = _render(domain, targets)

    def why_not(error: libvirt.libvirtError) -> VmctlError | None:
        if is_code(error, libvirt.VIR_ERR_OPERATION_UNSUPPORTED, libvirt.VIR_ERR_NO_SUPPORT):
            return UnsupportedError(
                f"the disks of '{domain.name}' can't be copied while it runs",
                details=error.get_error_message() or "",
                hint="stop it first",
            )
        busy = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_OPERATION_TIMEOUT)
        if is_code(error, *busy) and domain.is_active():
            return ConflictError(
                f"another job is under way on '{domain.name}'",
                details=error.get_error_message() or "",
                hint="wait until that has ended",
            )
        return None

    raw = domain.raw()
    with calling(f"copy the disks of the machine '{domain.name}'", on=why_not):
        raw.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)


def _render(domain: Domain, targets: Mapping[str, PushTarget]) -> str:
    root = etree.Element("domainbackup", mode="push")
    disks = etree.SubElement(root, "disks")
    for disk in domain.disks():
        node = etree.SubElement(disks, "disk", name=disk.target)
        target = targets.get(disk.target)
        if target is None:
            node.set("backup", "no")
            continue
        node.set("backup", "yes")
        node.set("type", "file")
        etree.SubElement(node, "target", file=target.path)
        etree.SubElement(node, "driver", type=target.format)
    return etree.tostring(root, encoding="unicode")


def await_push(domain: Domain, *, tell: Callable[[float], None]) -> None:
    """Wait until the copying has ended.

    Args:
        domain: The machine.
        tell: Told how much is done, from 0 to 1.

    Raises:
        HypervisorError: It failed; the guest runs on.
        WrongStateError: The machine went off in the middle.
        WaitTimeoutError: It did not end within a day.
    """
    deadline = time.monotonic() + _LONGEST_SECONDS
    with domain.connection.events.listening(domain.uuid) as signal:

        def ended() -> bool | None:
            # libvirtd may be restarted meanwhile; QEMU goes on.
            figures = outlasting(lambda: _figures(domain))
            if figures is None:
                return True
            total = figures.get(libvirt.VIR_DOMAIN_JOB_DISK_TOTAL, 0)
            done = figures.get(libvirt.VIR_DOMAIN_JOB_DISK_PROCESSED, 0)
            tell(min(done / total, 1.0) if total else 0.0)
            return None

        if signal.wait_for(ended, deadline=deadline, recheck=0.3) is None:
            raise WaitTimeoutError(
                f"the disks of '{domain.name}' were not copied within a day",
                phase="disks",
                hint="stop it, and copy them then",
            )
    _refuse_failed(domain)


def _figures(domain: Domain) -> dict[str, Any] | None:
    """Return how far the copying is; None when there is none (any more)."""
    raw = domain.raw()
    with calling(f"ask how far the copying of the disks of '{domain.name}' is"):
        try:
            figures: dict[str, Any] = raw.jobStats(0)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID) and not raw.isActive():
                return None
            raise
    backup = libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
    under_way = figures.get("type") != libvirt.VIR_DOMAIN_JOB_NONE
    return figures if under_way and figures.get("operation") == backup else None


def _refuse_failed(domain: Domain) -> None:
    raw = domain.raw()
    figures: dict[str, Any] = {}
    with calling(f"ask how the copying of the disks of '{domain.name}' ended"):
        if not raw.isActive():
            state = domain.state()
            raise WrongStateError(
                f"'{domain.name}' went off while its disks were copied",
                state=state.value,
                hint="see why: `vmctl logs`; then try again",
            )
        # A libvirtd that was restarted since does not know any more.
        with suppress(libvirt.libvirtError):
            figures = raw.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    if figures.get(libvirt.VIR_DOMAIN_JOB_SUCCESS):
        return
    raise HypervisorError(
        f"the disks of '{domain.name}' could not be copied",
        details=str(figures.get(libvirt.VIR_DOMAIN_JOB_ERRMSG, "how it ended is not known")),
        hint="try again; or stop it, and copy them then",
    )


def end_push(connection: Connection, uuid: str, paths: frozenset[str]) -> None:
    """End the copying of a machine's disks to some files, if it is under way; it may be gone.

    Args:
        connection: The host.
        uuid: The machine whose disks are copied.
        paths: The files; a job that writes to others is left alone.
    """
    domain = Domain(connection, uuid, uuid)
    try:
        raw = domain.raw()
    except NotFoundError:
        return
    with calling(f"end the copying of the disks of '{raw.name()}'"):
        try:
            root = etree.fromstring(raw.backupGetXMLDesc(0))
        except libvirt.libvirtError as error:
            gone = (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID)
            if is_code(error, *gone, libvirt.VIR_ERR_NO_SUPPORT):
                return
            raise
        if not paths & {node.get("file", "") for node in root.iter("target")}:
            return
        try:
            raw.abortJob()
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
                raise
    deadline = time.monotonic() + 60.0
    with connection.events.listening(uuid) as signal:
        signal.wait_for(
            lambda: True if _figures(domain) is None else None, deadline=deadline, recheck=0.2
        )
