"""Long calls of libvirt's that write a machine's memory: watched, and aborted when interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import libvirt

from vmctl.errors import ConflictError
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["run_job", "wait_for_job"]

_LOOK_SECONDS = 0.5
# A client that is killed leaves its call to libvirt, which goes on with it. Longer than the writing
# of a large memory takes.
_JOB_SECONDS = 600.0
# An entry of a domain's metadata that there never is.
_NOTHING = ("vmctl-turn", "urn:vmctl:turn:1")


def run_job(raw: Any, call: Callable[[], object], *, tell: Callable[[float], None]) -> None:
    """Run a call that is a job of a domain's; it ends with the call's own error, or none.

    When this is interrupted, the job is aborted, and the machine is as it was.

    Args:
        raw: libvirt's handle of the domain.
        call: The call.
        tell: Told how much is done, from 0 to 1.
    """
    done: Future[object] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            done.set_exception(error)

    worker = threading.Thread(target=work, name="vmctl-job", daemon=True)
    worker.start()
    try:
        while True:
            worker.join(_LOOK_SECONDS)
            if not worker.is_alive():
                break
            tell(_fraction(raw))
    except BaseException:
        # It may have come to its end by itself.
        with suppress(libvirt.libvirtError):
            raw.abortJob()
        worker.join()
        raise
    done.result()


def _fraction(raw: Any) -> float:
    """Return how much of a job is done; 0 where that can't be told."""
    # There may be no job yet, or none any more.
    with suppress(libvirt.libvirtError):
        figures = raw.jobStats(0)
        total = figures.get(libvirt.VIR_DOMAIN_JOB_MEMORY_TOTAL, 0)
        if total:
            processed = figures.get(libvirt.VIR_DOMAIN_JOB_MEMORY_PROCESSED, 0)
            remaining = figures.get(libvirt.VIR_DOMAIN_JOB_MEMORY_REMAINING)
            moved = processed if remaining is None else total - remaining
            return float(min(1.0, moved / total))
    return 0.0


def wait_for_job(domain: Domain) -> None:
    """Wait until libvirt has ended what it is at with a machine, for a client that is gone perhaps.

    Of some of it libvirt tells nothing: of the freezing of disks alone, of a revert. But it does
    one thing at a time with a machine, so that what is asked for here comes after that.

    Raises:
        ConflictError: It did not end.
    """
    deadline = time.monotonic() + _JOB_SECONDS
    with domain.connection.events.listening(domain.uuid) as signal:
        if signal.wait_for(
            lambda: None if _has_job(domain) or not _had_turn(domain) else True,
            deadline=deadline,
            recheck=0.2,
        ):
            return
    raise ConflictError(
        f"libvirt is still at work on '{domain.name}'",
        hint="wait until that has ended: `virsh domjobinfo` shows it, `virsh domjobabort` ends it",
    )


def _had_turn(domain: Domain) -> bool:
    """Let libvirt change nothing, when it comes to that; returns whether it did, in its time."""
    raw = domain.raw()
    with calling(f"wait for libvirt to end its work on '{domain.name}'"):
        try:
            element = libvirt.VIR_DOMAIN_METADATA_ELEMENT
            raw.setMetadata(element, None, *_NOTHING, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_OPERATION_TIMEOUT):
                return False
            raise
    return True


def _has_job(domain: Domain) -> bool:
    raw = domain.raw()
    with calling(f"look for jobs of '{domain.name}'"):
        if not raw.isActive():
            return False
        try:
            return bool(raw.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
        except libvirt.libvirtError as error:
            # It has gone off meanwhile.
            if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
                return False
            raise
