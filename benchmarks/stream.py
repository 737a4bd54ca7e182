#!/usr/bin/env python3
"""How fast volumes are uploaded and downloaded, against a plain copy of the same bytes.

It brings up a private host, and in turn copies a file within the host's file system, uploads it to
a volume and downloads that: once from the disk to the disk, as images larger than the memory are,
and once from and to the page cache, where a copy is one copy by the kernel and a stream is six.
Printed are the medians, and their ratio to the copy round by round.

    .venv/bin/python benchmarks/stream.py [MIB] [ROUNDS]
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import vmctl
from vmctl import hosts

SIZE = (int(sys.argv[1]) if len(sys.argv) > 1 else 1024) << 20
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 7
HOST = "bench"


def seconds(call: Callable[[], object], origin: Path, result: Path, *, on_disk: bool) -> float:
    """Return how long a call takes; with ``on_disk`` from an uncached file until all is written."""
    os.sync()
    if on_disk:
        with origin.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    call()
    if on_disk:
        with result.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - began


def measure(host: vmctl.Host, folder: Path) -> None:
    """Copy, upload and download in turn, and print what it took."""
    source, copy, back = folder / "source", folder / "copy", folder / "back"
    with source.open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
    host.pools.create(
        vmctl.PoolSpec.model_validate(
            {"name": "bench", "type": "dir", "target": str(folder / "pool"), "autostart": False}
        )
    )
    uploaded = folder / "pool" / "v"
    took: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for number in range(ROUNDS + 1):
        for on_disk in (True, False):
            steps: list[tuple[str, Callable[[], object], Path, Path]] = [
                ("copy", lambda: shutil.copyfile(source, copy), source, copy),
                (
                    "upload",
                    lambda: host.volumes.upload(source, "bench/v", format="raw"),
                    source,
                    uploaded,
                ),
                ("download", lambda: host.volumes.download("bench/v", back), uploaded, back),
            ]
            for name, call, origin, result in steps:
                spent = seconds(call, origin, result, on_disk=on_disk)
                # The first round warms what is warm ever after.
                if number:
                    took[name, on_disk].append(spent)
            if back.read_bytes() != source.read_bytes():
                sys.exit("what came back is not what was uploaded")
            host.volumes.delete("bench/v")
            copy.unlink()
            back.unlink()
    host.pools.delete("bench")
    print(f"{SIZE >> 20} MiB, {ROUNDS} rounds")
    for on_disk in (True, False):
        print("from the disk to the disk:" if on_disk else "within the page cache:")
        plain = took["copy", on_disk]
        for name in ("copy", "upload", "download"):
            times = took[name, on_disk]
            ratios = [first / second for first, second in zip(plain, times, strict=True)]
            speed = SIZE / statistics.median(times) / (1 << 20)
            print(
                f"  {name:<9} {speed:7.0f} MiB/s   {statistics.median(ratios):5.2f} of the copy's "
                f"speed (from {min(ratios):.2f} to {max(ratios):.2f})"
            )


def main() -> None:
    """Measure on a private host."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:  # noqa: S108
        folder = Path(name)
        folder.chmod(0o755)
        hosts.start_host(HOST)
        try:
            with vmctl.connect(f"private:{HOST}") as host:
                measure(host, folder)
        finally:
            hosts.stop_host(HOST, force=True)


if __name__ == "__main__":
    main()
