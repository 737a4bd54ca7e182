#!/usr/bin/env python3
"""What an incremental backup takes, in time and in bytes, beside a full one of the same machine.

A guest has a second disk with data on it. In each round some of that is written anew, from inside,
and then an incremental backup and a full one are made, in turn first. Printed are the medians, the
size of the changes, and how long the guest's file systems were frozen: by the guest's own clock, a
loop in it writes the time into a file and syncs that, and the longest pause between two is taken.

    .venv/bin/python benchmarks/backup.py [MIB_OF_DATA [MIB_CHANGED [ROUNDS]]]
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import vmctl
from vmctl import hosts

DATA = int(sys.argv[1]) if len(sys.argv) > 1 else 512
CHANGED = int(sys.argv[2]) if len(sys.argv) > 2 else 8
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
_ROOT = Path(__file__).resolve().parents[1]
_HOST = "bench-backup"
# Hundredths of a second since the guest was started, one a line, each on the disk before the next.
_CLOCK = "while read up idle < /proc/uptime; do echo $up >> /var/clock; sync; usleep 20000; done"


def root(vm: vmctl.VM, command: str) -> str:
    """Run a command in the guest as root, by its agent; returns what it printed."""
    return vm.run(["sh", "-c", command], check=True, timeout=600, via="agent").stdout


def pause_of(vm: vmctl.VM) -> float:
    """Return the longest time between two looks at the guest's clock, in seconds; begins anew."""
    times = [float(line) for line in root(vm, "cat /var/clock; : > /var/clock").split()]
    return max((after - before for before, after in itertools.pairwise(times)), default=0)


def measure(vm: vmctl.VM, folder: Path) -> None:
    """Make backups of both kinds in turn, and print what they took."""
    seconds: dict[str, list[float]] = {"full": [], "incremental": []}
    sizes: dict[str, list[int]] = {"full": [], "incremental": []}
    pauses: dict[str, list[float]] = {"none": [], "full": [], "incremental": []}
    vm.backup(folder)
    for number in range(ROUNDS):
        for kind in ("full", "incremental") if number % 2 else ("incremental", "full"):
            seek = number * CHANGED % max(DATA - CHANGED, 1)
            dd = f"dd if=/dev/urandom of=/dev/vdb bs=1M seek={seek} count={CHANGED} conv=fsync"
            root(vm, f"{dd} 2>/dev/null")
            pause_of(vm)
            root(vm, "sleep 2")
            pauses["none"].append(pause_of(vm))
            began = time.perf_counter()
            made = vm.backup(folder, full=kind == "full", quiesce=True)
            seconds[kind].append(time.perf_counter() - began)
            pauses[kind].append(pause_of(vm))
            sizes[kind].append(made.size)
            if made.kind != kind:
                raise SystemExit(f"it is {made.kind}: {made.why}")
    print(f"{DATA} MiB of data, {CHANGED} MiB changed, {ROUNDS} rounds; medians")
    print(f"{'':14}{'seconds':>10}{'MiB':>10}{'longest pause in the guest, s':>32}")
    for kind, times in seconds.items():
        mib = statistics.median(sizes[kind]) / (1 << 20)
        pause = statistics.median(pauses[kind])
        print(f"{kind:<14}{statistics.median(times):10.2f}{mib:10.1f}{pause:32.2f}")
    print(f"{'no backup':<14}{'':20}{statistics.median(pauses['none']):32.2f}")


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        command = [str(_ROOT / "scripts" / "guest-image"), "micro"]
        image = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        hosts.start_host(_HOST)
        stack.callback(hosts.stop_host, _HOST, force=True)
        host = stack.enter_context(vmctl.connect(f"private:{_HOST}"))
        spec = {
            "name": "backed-up",
            "image": image.stdout.strip(),
            "memory": "192MiB",
            "nics": [{"user": True}],
            "disks": [{}, {"size": f"{DATA + 64}MiB"}],
        }
        vm = host.launch(vmctl.VMSpec.model_validate(spec))
        root(vm, f"dd if=/dev/urandom of=/dev/vdb bs=1M count={DATA} 2>/dev/null; sync")
        root(vm, f"( {_CLOCK} ) </dev/null >/dev/null 2>&1 &")
        measure(vm, Path(folder) / "backups")


if __name__ == "__main__":
    main()
