#!/usr/bin/env python3
"""What the hundredth guest from an image costs, beside the second: time, and space on the host.

It brings up a private host, and makes machines of one image without starting them. Printed are the
medians of the first and the last ten after the first, their ratio, and the space of each.

    .venv/bin/python benchmarks/shared_image.py [MACHINES]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import vmctl
from vmctl import hosts

MACHINES = int(sys.argv[1]) if len(sys.argv) > 1 else 100
HOST = "bench-shared"
_GROUP = 10


def measure(host: vmctl.Host, image: Path) -> None:
    """Make the machines, and print what each cost."""
    host.images.import_file(image, name="shared")
    took, space = [], []
    before = allocated(host)
    for number in range(MACHINES):
        spec = vmctl.VMSpec.model_validate({"name": f"m{number}", "image": "shared", "nics": []})
        began = time.perf_counter()
        host.create(spec)
        took.append(time.perf_counter() - began)
        after = allocated(host)
        space.append(after - before)
        before = after
    early, late = took[1 : 1 + _GROUP], took[-_GROUP:]
    ratio = statistics.median(late) / statistics.median(early)
    print(f"machines 2 to {1 + _GROUP}: {statistics.median(early) * 1000:.1f} ms each")
    print(f"the last {_GROUP} of {MACHINES}: {statistics.median(late) * 1000:.1f} ms each")
    print(f"ratio: {ratio:.2f}")
    print(f"space: the second {space[1] >> 10} KiB, the last {space[-1] >> 10} KiB")
    shared = host.images.info("shared")
    print(f"saved by sharing: {shared.saved >> 20} MiB, with {shared.clones} clones")


def allocated(host: vmctl.Host) -> int:
    """Return the bytes that all volumes of the pool take."""
    return sum(volume.allocation for volume in host.volumes.list(everything=True))


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.qcow2"
        raw = Path(folder) / "image.raw"
        raw.write_bytes(bytes(range(256)) * (1 << 18))
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)]
        subprocess.run(command, check=True)
        hosts.start_host(HOST)
        try:
            with vmctl.connect(f"private:{HOST}") as host:
                measure(host, image)
        finally:
            hosts.stop_host(HOST, force=True)


if __name__ == "__main__":
    main()
