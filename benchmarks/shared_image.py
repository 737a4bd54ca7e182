#!/usr/bin/env python3
"""What the hundredth guest from an image costs, beside the second: time, and space on the host.

It brings up two private hosts that have the same image, one with a single guest from it and one
with as many as are asked for less one. Then the next guest is made on each in turn, and taken away
again, so that whatever else the machine does meets both alike. That is done by vmctl and by bare
libvirt calls, with starting it and without. Printed are the medians and the median of the ratios
round by round, the same of the fastest, which a busy machine disturbs least, and the space that
the second and the last take.

After each upload libvirt looks through the whole pool, behind the caller's back; whoever asks for
the pool meanwhile waits. So the seed goes last, and a launch does not wait for that. Who makes
machines in a row without starting them does, for the one before: that is printed as well.

    .venv/bin/python benchmarks/shared_image.py [MACHINES [ROUNDS]]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bare import Bare

import vmctl
from vmctl import hosts

MACHINES = int(sys.argv[1]) if len(sys.argv) > 1 else 100
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 15
HOSTS = {"bench-few": 1, "bench-many": MACHINES - 1}
_ROW = 5


class Side:
    """One of the two hosts, and the ways of making one more machine on it."""

    def __init__(self, host: vmctl.Host, image: Path, machines: int) -> None:
        self._host = host
        host.images.import_file(image, name="shared")
        for number in range(machines - 1):
            host.create(spec(f"m{number}"))
        before = self._allocated()
        host.create(spec("last"))
        self.space = self._allocated() - before
        self._bare = Bare.like(host, spec("example"))
        self.ways: dict[str, Callable[[], float]] = {
            "create": lambda: self._ours(start=False),
            "create, bare libvirt": lambda: self._theirs(start=False),
            "launch": lambda: self._ours(start=True),
            "launch, bare libvirt": lambda: self._theirs(start=True),
            f"create, {_ROW} in a row": self._our_row,
            f"create, {_ROW} in a row, bare libvirt": self._their_row,
        }

    def _allocated(self) -> int:
        """Return the bytes that all volumes of the pool take."""
        return sum(volume.allocation for volume in self._host.volumes.list(everything=True))

    def _ours(self, *, start: bool) -> float:
        wanted = spec("next")
        began = time.perf_counter()
        vm = self._host.launch(wanted, wait=False) if start else self._host.create(wanted)
        took = time.perf_counter() - began
        vm.delete()
        return took

    def _theirs(self, *, start: bool) -> float:
        began = time.perf_counter()
        self._bare.make("next", start=start)
        took = time.perf_counter() - began
        self._bare.remove("next")
        return took

    def _our_row(self) -> float:
        wanted = [spec(f"row{number}") for number in range(_ROW)]
        began = time.perf_counter()
        made = [self._host.create(one) for one in wanted]
        took = time.perf_counter() - began
        for vm in made:
            vm.delete()
        return took / _ROW

    def _their_row(self) -> float:
        names = [f"row{number}" for number in range(_ROW)]
        began = time.perf_counter()
        for name in names:
            self._bare.make(name, start=False)
        took = time.perf_counter() - began
        for name in names:
            self._bare.remove(name)
        return took / _ROW


def spec(name: str) -> vmctl.VMSpec:
    """Return the spec of a small machine from the image."""
    return vmctl.VMSpec.model_validate(
        {"name": name, "image": "shared", "memory": "64MiB", "nics": []}
    )


def measure(few: Side, many: Side) -> None:
    """Make one more machine on each in turn, in every way, and print what it took."""
    print(f"{ROUNDS} rounds, ms each; of each, the median and the fastest")
    print(f"{'':38}{'the 2nd':>16}{f'the {MACHINES}th':>16}{'ratio':>14}")
    for way in few.ways:
        early: list[float] = []
        late: list[float] = []
        for number in range(ROUNDS + 1):
            turn = ((few, early), (many, late))
            for side, times in turn if number % 2 else reversed(turn):
                times.append(side.ways[way]() * 1000)
        del early[0], late[0]  # they warmed up
        ratio = statistics.median(last / second for second, last in zip(early, late, strict=True))
        columns = [f"{statistics.median(times):8.1f}{min(times):8.1f}" for times in (early, late)]
        print(f"{way:<38}{''.join(columns)}{ratio:8.2f}{min(late) / min(early):6.2f}", flush=True)


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        image = Path(folder) / "image.qcow2"
        raw = Path(folder) / "image.raw"
        raw.write_bytes(bytes(range(256)) * (1 << 18))
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)]
        subprocess.run(command, check=True)
        sides = []
        for name, machines in HOSTS.items():
            hosts.start_host(name)
            stack.callback(hosts.stop_host, name, force=True)
            host = stack.enter_context(vmctl.connect(f"private:{name}"))
            sides.append(Side(host, image, machines))
        few, many = sides
        measure(few, many)
        print(f"space: the second {few.space >> 10} KiB, the last {many.space >> 10} KiB")
        shared = host.images.info("shared")
        print(f"saved by sharing: {shared.saved >> 20} MiB, with {shared.clones} clones")


if __name__ == "__main__":
    main()
