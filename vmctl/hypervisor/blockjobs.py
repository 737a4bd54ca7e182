"""Block jobs: QEMU moving the content of a machine's disks about, beside its guest.

https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockPull
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import WrongStateError
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code

__all__ = [
    "JobFacts",
    "LiveDisk",
    "abort",
    "commit",
    "facts_of",
    "follow",
    "live_disks",
    "pivot",
    "pull",
]


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """A job under way.

    Attributes:
        done: How far it is, in libvirt's units, of which nothing else is known.
        whole: How far it has to go.
        ready: Whether all is copied, and two files are kept alike until somebody ends that.
        only_forward: Whether it must not be aborted, but followed, and ended by `pivot`. libvirt
            (9.0) forgets what it merges into when it is killed as that begins, and is ended by a
            null pointer if it has to abort it (qemuBlockJobProcessEventFailedActiveCommit).
    """

    done: int
    whole: int
    ready: bool = False
    only_forward: bool = False


@dataclass(frozen=True, kw_only=True)
class LiveDisk:
    """A disk of a machine that QEMU runs for.

    Attributes:
        target: Its name on its bus.
        path: Where its content is on the host; empty for a server's disk.
        layers: The paths of what lies underneath it, the nearest first.
        read_only: Whether nobody may write to it.
    """

    target: str
    path: str
    layers: tuple[str, ...]
    read_only: bool


@contextmanager
def _calling(domain: Domain, doing: str) -> Iterator[Any]:
    raw = domain.raw()
    try:
        with calling(f"{doing} of the machine '{domain.name}'"):
            yield raw
    except WrongStateError:
        state = domain.state()
        raise WrongStateError(
            f"could not {doing} of the machine '{domain.name}', which is {state.value}",
            state=state.value,
            hint="its disk is whole; see why it went off: `vmctl logs`",
        ) from None


def live_disks(domain: Domain) -> tuple[LiveDisk, ...]:
    """Return the disks, without drives, of a machine that QEMU runs for."""
    found = []
    for node in etree.fromstring(domain.xml()).findall("devices/disk"):
        if node.get("device", "disk") == "disk":
            target = node.find("target")
            found.append(
                LiveDisk(
                    target="" if target is None else target.get("dev", ""),
                    path=_path_of(node),
                    layers=tuple(_layers(node)),
                    read_only=node.find("readonly") is not None,
                )
            )
    return tuple(found)


def _layers(disk: etree._Element) -> Iterator[str]:
    # Every layer has the next one inside of it; an empty element says that there is no more.
    layer = disk.find("backingStore")
    while layer is not None and layer.find("source") is not None:
        yield _path_of(layer)
        layer = layer.find("backingStore")


def _path_of(node: etree._Element) -> str:
    source = node.find("source")
    return "" if source is None else source.get("file") or source.get("dev") or ""


def pull(domain: Domain, target: str) -> None:
    """Begin to copy into a disk all that it has from underneath, and to let go of that."""
    with _calling(domain, f"flatten the disk {target}") as raw:
        raw.blockPull(target, 0, 0)


def commit(domain: Domain, target: str, *, top: str, base: str, active: bool) -> None:
    """Begin to write what a layer of a disk has into the one right underneath it.

    Args:
        domain: The machine.
        target: The disk.
        top: The path of the layer, which is of no use afterwards.
        base: The path of the one underneath.
        active: Whether the guest writes to that layer. Then the two are kept alike from when the
            job is ready, until `pivot` or `abort`.
    """
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE if active else 0
    with _calling(domain, f"merge a layer of the disk {target}") as raw:
        raw.blockCommit(target, base, top, 0, flags)


def pivot(domain: Domain, target: str) -> None:
    """Let the guest go on in the layer that the one it wrote to was merged into."""
    with _calling(domain, f"end the merging on the disk {target}") as raw:
        raw.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def facts_of(domain: Domain, target: str) -> JobFacts | None:
    """Return how far the job on a disk is; None when there is none (any more).

    Raises:
        WrongStateError: The machine is off.
    """
    with _calling(domain, f"ask how far the job is on the disk {target}") as raw:
        job = raw.blockJobInfo(target, 0)
        if not job:
            return None
        text = str(raw.XMLDesc(0))
    mirror = _mirror_of(text, target)
    if mirror is None and job["type"] == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT:
        ready = 0 < job["end"] == job["cur"]
        return JobFacts(done=job["cur"], whole=job["end"], ready=ready, only_forward=True)
    # That all is copied is not enough: QEMU has to have said it.
    ready = mirror is not None and mirror.get("ready") == "yes"
    return JobFacts(done=job["cur"], whole=job["end"], ready=ready)


def _mirror_of(text: str, target: str) -> etree._Element | None:
    for disk in etree.fromstring(text).findall("devices/disk"):
        name = disk.find("target")
        if name is not None and name.get("dev") == target:
            return disk.find("mirror")
    return None


def abort(domain: Domain, target: str) -> None:
    """End the job on a disk, if there is one; what it copied stays, and does no harm."""
    with _calling(domain, f"end the job on the disk {target}") as raw:
        try:
            raw.blockJobAbort(target, 0)
        except libvirt.libvirtError as error:
            gone = (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_OPERATION_INVALID)
            if not is_code(error, *gone) or (raw.isActive() and raw.blockJobInfo(target, 0)):
                raise


def follow(
    domain: Domain,
    target: str,
    *,
    seconds: float,
    tell: Callable[[float], None],
) -> bool:
    """Wait until the job on a disk has ended, or can be ended by `pivot`.

    libvirtd may be restarted meanwhile; QEMU goes on.

    Args:
        domain: The machine.
        target: The disk.
        seconds: How long to wait.
        tell: Told how much is done, from 0 to 1.

    Returns:
        Whether it came to that in time.
    """
    with domain.connection.events.listening(domain.uuid) as signal:

        def over() -> bool | None:
            job = outlasting(lambda: facts_of(domain, target))
            if job is None or job.ready:
                return True
            tell(job.done / max(job.whole, 1))
            return None

        deadline = time.monotonic() + seconds
        return signal.wait_for(over, deadline=deadline, recheck=0.5) is not None
