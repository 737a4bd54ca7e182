#!/usr/bin/env python3
"""What `vmctl --version` takes as a whole process, beside an interpreter that does nothing.

.venv/bin/python benchmarks/start_up.py [PAIRS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
NOTHING = [sys.executable, "-c", "pass"]
VERSION = [sys.executable, "-m", "vmctl.cli.main", "--version"]


def seconds(command: list[str]) -> float:
    """Run a command; returns how long it took."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print."""
    for command in (NOTHING, VERSION):
        seconds(command)
    pairs = [(seconds(NOTHING), seconds(VERSION)) for _ in range(PAIRS)]
    bare = statistics.median(first for first, _ in pairs)
    ours = statistics.median(second for _, second in pairs)
    ratio = statistics.median(second / first for first, second in pairs)
    print(f"pairs: {PAIRS}")
    print(f"python -c pass    {bare * 1000:7.1f} ms")
    print(f"vmctl --version   {ours * 1000:7.1f} ms")
    print(f"ratio             {ratio:7.2f}")


if __name__ == "__main__":
    main()
