#!/usr/bin/env python3
"""How much time vmctl adds from the call to a running domain.

It brings up a private host, and in turn, in one process, makes the same machine with bare libvirt
calls and with vmctl. Printed are the medians, their ratio pair by pair, and where the time goes.

    .venv/bin/python benchmarks/launch_overhead.py [PAIRS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from bare import Bare

import vmctl
from vmctl import hosts

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 15
HOST = "bench"


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "blank.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1G"], check=True)  # noqa: S607
        hosts.start_host(HOST)
        try:
            with vmctl.connect(f"private:{HOST}") as host:
                measure(host, image)
        finally:
            hosts.stop_host(HOST, force=True)


def measure(host: vmctl.Host, image: Path) -> None:
    """Launch in turn, and print what it took."""
    spec = vmctl.VMSpec.model_validate(
        {"name": "bench", "image": str(image), "memory": "128MiB", "nics": [{"user": True}]}
    )
    # One of each before it counts: caches are warm, and the base image is in the pool.
    template = Bare.like(host, spec)

    bare, ours = [], []
    phases: dict[str, list[float]] = defaultdict(list)

    def note(progress: vmctl.Progress) -> None:
        if progress.state == "end":
            phases[progress.phase].append(progress.elapsed)

    for number in range(PAIRS + 1):
        began = time.perf_counter()
        template.make(f"bare{number}", start=True)
        first = time.perf_counter() - began
        template.remove(f"bare{number}")
        began = time.perf_counter()
        vm = host.launch(spec, wait=False, progress=note)
        second = time.perf_counter() - began
        vm.delete()
        if number:
            bare.append(first)
            ours.append(second)
    ratios = [second / first for first, second in zip(bare, ours, strict=True)]
    print(f"pairs: {PAIRS}")
    print(f"bare libvirt  {statistics.median(bare) * 1000:7.1f} ms")
    print(f"vmctl         {statistics.median(ours) * 1000:7.1f} ms")
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"vmctl / bare  {middle:7.3f}    (from {low:.3f} to {high:.3f})")
    for phase, times in phases.items():
        print(f"  of which {phase:<8} {statistics.median(times[1:]) * 1000:7.1f} ms")


if __name__ == "__main__":
    main()
