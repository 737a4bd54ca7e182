"""What machines use: processor time, memory, disks and network, and how fast they use it.

Totals count from the machine's start. Rates need two measurements, one after the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vmctl.errors import NotFoundError
from vmctl.hypervisor.figures import Figures

__all__ = [
    "CpuStats",
    "DiskStats",
    "MachineStats",
    "MemoryStats",
    "NicStats",
    "measure",
    "of_names",
    "stats_of",
]

_KIB = 1024


@dataclass(frozen=True, kw_only=True)
class CpuStats:
    """Processors.

    Attributes:
        count: Virtual processors.
        seconds: Processor time that the machine took of its host since it was started.
        percent: What it takes now; 100 is one of the host's processors, all of it. None without a
            measurement before.
    """

    count: int | None = None
    seconds: float | None = None
    percent: float | None = None


@dataclass(frozen=True, kw_only=True)
class MemoryStats:
    """Memory, in bytes. The guest's own view is None where its balloon driver has not reported.

    Attributes:
        maximum: What the machine can have.
        current: What it has: the maximum without what the balloon took back.
        resident: What QEMU takes of the host.
        available: What the guest's system can use in all.
        unused: What it has not touched.
        usable: What it can give to programs without swapping, its caches among it.
        used: What it can't: ``available`` without ``usable``.
        caches: What it keeps for its disks.
        swapped_in: Read back from its swap, in all.
        swapped_out: Written to its swap, in all.
        major_faults: Times that a page had to be read from a disk.
        reported: When the guest last said so, UTC; the guest's view is of that time.
    """

    maximum: int | None = None
    current: int | None = None
    resident: int | None = None
    available: int | None = None
    unused: int | None = None
    usable: int | None = None
    used: int | None = None
    caches: int | None = None
    swapped_in: int | None = None
    swapped_out: int | None = None
    major_faults: int | None = None
    reported: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class DiskStats:
    """A disk or drive. Bytes and requests are those of its guest, in all; rates are a second's.

    Attributes:
        target: Its name on its bus, ``vda``.
        read_bytes: Read.
        written_bytes: Written.
        reads: Requests to read.
        writes: Requests to write.
        flushes: Requests to make what was written last.
        allocation: Bytes of its file that hold something.
        capacity: Bytes that the guest sees.
        read_rate: Bytes read in a second; None without a measurement before.
        write_rate: Bytes written in a second.
    """

    target: str
    read_bytes: int | None = None
    written_bytes: int | None = None
    reads: int | None = None
    writes: int | None = None
    flushes: int | None = None
    allocation: int | None = None
    capacity: int | None = None
    read_rate: float | None = None
    write_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class NicStats:
    """A NIC, as its guest sees it: received is what came to the guest. User-mode NICs have none.

    Attributes:
        index: Its place among the machine's NICs, from 0.
        device: Its other end on the host, ``vnet0``.
        received_bytes: Received, in all.
        sent_bytes: Sent, in all.
        received_packets: Packets received.
        sent_packets: Packets sent.
        receive_errors: Packets that could not be received.
        send_errors: Packets that could not be sent.
        receive_drops: Packets that there was no room for.
        send_drops: The same, of those to be sent.
        receive_rate: Bytes received in a second; None without a measurement before.
        send_rate: Bytes sent in a second.
    """

    index: int
    device: str = ""
    received_bytes: int | None = None
    sent_bytes: int | None = None
    received_packets: int | None = None
    sent_packets: int | None = None
    receive_errors: int | None = None
    send_errors: int | None = None
    receive_drops: int | None = None
    send_drops: int | None = None
    receive_rate: float | None = None
    send_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class MachineStats:
    """One measurement of one machine. What its host can't say at once is None, or not there.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        state: libvirt's word for its state.
        time: When it was measured, UTC.
        clock: The same on a clock that nobody sets, in seconds; two of them give the interval.
        cpu: Its processors.
        memory: Its memory.
        disks: Its disks and drives.
        nics: Its NICs.
    """

    name: str
    uuid: str
    state: str
    time: datetime
    clock: float
    cpu: CpuStats
    memory: MemoryStats
    disks: tuple[DiskStats, ...] = ()
    nics: tuple[NicStats, ...] = ()


def measure(
    look: Callable[[], Sequence[Figures]],
    *,
    since: Iterable[MachineStats] = (),
    interval: float = 0.0,
) -> Sequence[MachineStats]:
    """Measure, and work out the rates.

    Args:
        look: Asks libvirt.
        since: The measurement before, for the rates.
        interval: Seconds between two measurements that are taken now, instead of ``since``.
    """
    if interval > 0:
        since = measure(look)
        # A rate is what happens in a stretch of time; there is nothing else to wait for.
        threading.Event().wait(interval)
    before = {stats.uuid: stats for stats in since}
    found = look()
    now, clock = datetime.now(UTC), time.monotonic()
    return [stats_of(one, now, clock, before.get(one.domain.uuid)) for one in found]


def of_names(found: Sequence[MachineStats], names: Sequence[str]) -> Sequence[MachineStats]:
    """Return those of these names or UUIDs, in that order; all, where none is given.

    Raises:
        NotFoundError: There is no such machine.
    """
    if not names:
        return found
    known = {key: stats for stats in found for key in (stats.uuid, stats.name)}
    for name in names:
        if name not in known:
            raise NotFoundError(
                f"there is no machine '{name[:80]}'", hint="`vmctl list` shows what there is"
            )
    return [known[name] for name in dict.fromkeys(names)]


def stats_of(
    figures: Figures, now: datetime, clock: float, before: MachineStats | None
) -> MachineStats:
    """Return what was measured of one machine.

    Args:
        figures: libvirt's figures.
        now: The time.
        clock: The same on the clock that nobody sets.
        before: The measurement before.
    """
    values = figures.values
    seconds = _scaled(values.get("cpu.time"), 1e-9)
    old = before.cpu.seconds if before else None
    rate = _Rate(clock - before.clock if before else 0.0)
    share = rate(seconds, old)
    return MachineStats(
        name=figures.domain.name,
        uuid=figures.domain.uuid,
        state=figures.state.value,
        time=now,
        clock=clock,
        cpu=CpuStats(
            count=values.get("vcpu.current"),
            seconds=seconds,
            percent=None if share is None else share * 100,
        ),
        memory=_memory(values),
        disks=_disks(figures, rate, {disk.target: disk for disk in before.disks} if before else {}),
        nics=_nics(figures, rate, {nic.device: nic for nic in before.nics} if before else {}),
    )


class _Rate:
    """Works out what happened in a second."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, now: float | None, before: float | None) -> float | None:
        # Less than before: it was started anew in between.
        if now is None or before is None or self._seconds <= 0 or now < before:
            return None
        return (now - before) / self._seconds


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _memory(values: dict[str, Any]) -> MemoryStats:
    def size(name: str) -> int | None:
        kib = values.get(f"balloon.{name}")
        return None if kib is None else int(kib) * _KIB

    available, usable = size("available"), size("usable")
    reported = values.get("balloon.last-update")
    return MemoryStats(
        maximum=size("maximum"),
        current=size("current"),
        resident=size("rss"),
        available=available,
        unused=size("unused"),
        usable=usable,
        used=None if available is None or usable is None else available - usable,
        caches=size("disk_caches"),
        swapped_in=size("swap_in"),
        swapped_out=size("swap_out"),
        major_faults=values.get("balloon.major_fault"),
        reported=datetime.fromtimestamp(reported, UTC) if reported else None,
    )


def _disks(figures: Figures, rate: _Rate, before: dict[str, DiskStats]) -> tuple[DiskStats, ...]:
    found = []
    for entry in figures.table("block"):
        target = entry.get("name", "")
        old = before.get(target, DiskStats(target=target))
        read, written = entry.get("rd.bytes"), entry.get("wr.bytes")
        found.append(
            DiskStats(
                target=target,
                read_bytes=read,
                written_bytes=written,
                reads=entry.get("rd.reqs"),
                writes=entry.get("wr.reqs"),
                flushes=entry.get("fl.reqs"),
                allocation=entry.get("allocation"),
                capacity=entry.get("capacity"),
                read_rate=rate(read, old.read_bytes),
                write_rate=rate(written, old.written_bytes),
            )
        )
    return tuple(found)


def _nics(figures: Figures, rate: _Rate, before: dict[str, NicStats]) -> tuple[NicStats, ...]:
    found = []
    for index, entry in enumerate(figures.table("net")):
        device = entry.get("name", "")
        old = before.get(device, NicStats(index=index)) if device else NicStats(index=index)
        received, sent = entry.get("rx.bytes"), entry.get("tx.bytes")
        found.append(
            NicStats(
                index=index,
                device=device,
                received_bytes=received,
                sent_bytes=sent,
                received_packets=entry.get("rx.pkts"),
                sent_packets=entry.get("tx.pkts"),
                receive_errors=entry.get("rx.errs"),
                send_errors=entry.get("tx.errs"),
                receive_drops=entry.get("rx.drop"),
                send_drops=entry.get("tx.drop"),
                receive_rate=rate(received, old.received_bytes),
                send_rate=rate(sent, old.sent_bytes),
            )
        )
    return tuple(found)
