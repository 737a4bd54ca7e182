#!/usr/bin/env python3
"""How long a guest stands still for a snapshot: vmctl beside bare `virsh snapshot-create-as`.

It is measured inside the guest, by its own clocks. Its time since the start stops with its
processors, so that a loop of reads of it shows no gap. The clock of its mainboard does not: QEMU
keeps that by the host's time (``-rtc clock=host``, the default) whether the guest runs or not. A
loop in the guest writes down what the one says in the moment in which the other comes to its next
second. By how much the difference of the two has grown is how long the guest did not run. That
moment is noticed late where the host is busy, never early: of several the earliest counts.

Each kind of snapshot is taken by vmctl and by virsh in turn, of the same running guest, and deleted
again. Printed are the medians of the time that the guest stood still, and of what the whole took;
what is being measured is told meanwhile, for a round takes about two minutes.

    .venv/bin/python benchmarks/snapshot_pause.py [ROUNDS [MEMORY]]
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import vmctl
from vmctl import hosts

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
MEMORY = sys.argv[2] if len(sys.argv) > 2 else "192MiB"
_ROOT = Path(__file__).resolve().parents[1]
_HOST = "bench-pause"
_VIRSH = shutil.which("virsh") or "virsh"
_RTC = "/sys/class/rtc/rtc0/since_epoch"
# For each second of the mainboard's clock, the hundredth of the guest's own in which it began.
_LOOP = (
    f"last=0; while read second < {_RTC}; do [ $second = $last ] || "
    "{ read up idle < /proc/uptime; echo $second $up >> /dev/shm/seconds; last=$second; }; done"
)
_SECONDS = 2
KINDS = {
    "internal, memory": (),
    "external, disks only": ("--disk-only",),
    "external, memory": ("--memspec",),
}


def root(vm: vmctl.VM, command: str) -> str:
    """Run a command in the guest as root, by its agent; returns what it printed."""
    return vm.run(["sh", "-c", command], check=True, timeout=600, via="agent").stdout


def difference(vm: vmctl.VM) -> float:
    """Return by how much its mainboard's clock is ahead of its own, from now on, in seconds."""
    root(vm, ": > /dev/shm/seconds")
    wait = f"until [ $(wc -l < /dev/shm/seconds) -ge {_SECONDS + 1} ]; do usleep 50000; done"
    lines = root(vm, f"{wait}; cat /dev/shm/seconds").splitlines()[1:]
    return max(float(second) - float(up) for second, up in map(str.split, lines))


def by_vmctl(vm: vmctl.VM, kind: str) -> None:
    """Take a snapshot; its file systems are not frozen, as virsh does not either."""
    vm.snapshots.create(
        "pause",
        kind=kind.partition(",")[0],
        memory="memory" in kind,
        quiesce=False,
    )


def by_virsh(vm: vmctl.VM, kind: str, uri: str, folder: str) -> None:
    """Take a snapshot of the same kind."""
    words = ["snapshot-create-as", vm.name, "pause", *KINDS[kind]]
    if words[-1] == "--memspec":
        words.append(f"{folder}/{vm.uuid}.pause.memory,snapshot=external")
    subprocess.run([_VIRSH, "-q", "-c", uri, *words], check=True)


def measure(vm: vmctl.VM, take: Callable[[], None]) -> tuple[float, float]:
    """Return how long the guest stood still, and how long it took, in seconds."""
    before = difference(vm)
    began = time.perf_counter()
    take()
    took = time.perf_counter() - began
    pause = difference(vm) - before
    if vm.snapshots.list():
        vm.snapshots.delete("pause")
        vm.snapshots.merge()
    return pause, took


def main() -> None:
    """Measure, and print."""
    with ExitStack() as stack:
        command = [str(_ROOT / "scripts" / "guest-image"), "micro"]
        image = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        hosts.start_host(_HOST)
        stack.callback(hosts.stop_host, _HOST, force=True)
        host = stack.enter_context(vmctl.connect(f"private:{_HOST}"))
        spec = {
            "name": "paused",
            "image": image.stdout.strip(),
            "memory": MEMORY,
            "nics": [{"user": True}],
            "disks": [{}, {"size": "64MiB"}],
        }
        vm = host.launch(vmctl.VMSpec.model_validate(spec))
        root(vm, f"( {_LOOP} ) </dev/null >/dev/null 2>&1 &")
        folder = vm.info().disks[0].source.rpartition("/")[0]
        stood: dict[tuple[str, str], list[float]] = {}
        took: dict[tuple[str, str], list[float]] = {}
        ways: dict[str, Callable[[str], None]] = {
            "vmctl": lambda kind: by_vmctl(vm, kind),
            "virsh": lambda kind: by_virsh(vm, kind, host._connection.uri, folder),
            "nothing": lambda _kind: None,
        }
        for number in range(ROUNDS):
            for kind in KINDS:
                for way in sorted(ways, reverse=bool(number % 2)):
                    print(f"round {number + 1}: {kind}, {way}", file=sys.stderr)
                    pause, seconds = measure(vm, lambda way=way, kind=kind: ways[way](kind))  # type: ignore[misc]
                    stood.setdefault((kind, way), []).append(pause)
                    took.setdefault((kind, way), []).append(seconds)
    print(f"{MEMORY}, {ROUNDS} rounds; medians, in seconds")
    print(f"{'':24}{'stood still':>33}{'':>8}{'took':>22}")
    print(f"{'':24}{'vmctl':>11}{'virsh':>11}{'nothing':>11}{'ratio':>8}{'vmctl':>11}{'virsh':>11}")
    for kind in KINDS:
        still = [statistics.median(stood[kind, way]) for way in ("vmctl", "virsh", "nothing")]
        whole = [statistics.median(took[kind, way]) for way in ("vmctl", "virsh")]
        ratio = still[0] / max(still[1], 0.01)
        print(
            f"{kind:<24}{still[0]:11.2f}{still[1]:11.2f}{still[2]:11.2f}{ratio:8.2f}"
            f"{whole[0]:11.2f}{whole[1]:11.2f}"
        )


if __name__ == "__main__":
    main()
