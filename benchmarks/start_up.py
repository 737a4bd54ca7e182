#!/usr/bin/env python3
"""What commands take as whole processes, beside an interpreter that does nothing.

With an image it brings up a private host with a guest, and measures what is asked of a host too.
The commands are run in turn; printed are the medians of the time that passed, and of the processor
time, which other work on the machine changes less.

    .venv/bin/python benchmarks/start_up.py [ROUNDS] [IMAGE]

IMAGE is what `scripts/guest-image micro` prints.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time

import vmctl
from vmctl import hosts

HOST = "bench"
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
VMCTL = [sys.executable, "-m", "vmctl.cli.main"]
ALONE = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import vmctl": [sys.executable, "-c", "import vmctl"],
    "vmctl --version": [*VMCTL, "--version"],
}
ON_A_HOST = {
    "vmctl list": [*VMCTL, "list"],
    "vmctl info": [*VMCTL, "info", "guest"],
    "vmctl exec": [*VMCTL, "exec", "guest", "--", "true"],
}


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; returns how many seconds passed, and of how many a processor was at work."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    passed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return passed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(commands: dict[str, list[str]]) -> None:
    """Run the commands in turn, and print what they took."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(ROUNDS + 1):
        for name, command in commands.items():
            spent = run(command)
            # The first round compiles what is compiled ever after.
            if number:
                took[name].append(spent)
    print(f"{'medians of ' + str(ROUNDS):<16} {'passed':>10} {'processor':>10}")
    for name, times in took.items():
        passed, busy = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
        print(f"{name:<16} {passed:7.0f} ms {busy:7.0f} ms")


def main() -> None:
    """Measure, on a private host if there is an image."""
    # Compiled modules are what every user has after the first run.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if len(sys.argv) < 3:
        measure(ALONE)
        return
    spec = vmctl.VMSpec.model_validate(
        {
            "name": "guest",
            "image": sys.argv[2],
            "memory": "192MiB",
            "nics": [{"user": True}],
            "cloud_init": {},
        }
    )
    hosts.start_host(HOST)
    try:
        os.environ["VMCTL_URI"] = f"private:{HOST}"
        with vmctl.connect() as host:
            host.launch(spec)
        measure(ALONE | ON_A_HOST)
    finally:
        hosts.stop_host(HOST, force=True)


if __name__ == "__main__":
    main()
