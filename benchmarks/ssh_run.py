#!/usr/bin/env python3
"""How long a command in a guest takes over the kept connection, against OpenSSH's ControlMaster.

It brings up a private host with a guest, and runs the same command in turn by `vm.run` and by
``ssh`` through a master that is connected already: both open a channel in a connection that is
there. Printed are the medians, and their ratio round by round.

    .venv/bin/python benchmarks/ssh_run.py IMAGE [ROUNDS]

IMAGE is what `scripts/guest-image micro` prints.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import vmctl
from vmctl import hosts

HOST = "bench"
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 50


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(vm: vmctl.VM, folder: Path) -> None:
    """Run the command by both in turn, and print what it took."""
    config = folder / "config"
    config.write_text(vm.ssh_config(host="guest"))
    ssh = ["ssh", "-F", str(config), "-o", f"ControlPath={folder}/master"]
    subprocess.run(
        [*ssh, "-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "guest", "true"],
        check=True,
        stdin=subprocess.DEVNULL,
    )

    def by_openssh() -> None:
        done = subprocess.run(
            [*ssh, "guest", "echo hello"], check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
        if done.stdout != b"hello\n":
            sys.exit("ssh did not do it")

    def by_vmctl() -> None:
        if vm.run("echo hello", check=True, via="ssh").stdout != "hello\n":
            sys.exit("vmctl did not do it")

    ways = {"vm.run": by_vmctl, "ssh": by_openssh}
    took: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for number in range(ROUNDS + 1):
            for name, call in ways.items():
                spent = seconds(call)
                # The first round warms what is warm ever after.
                if number:
                    took[name].append(spent)
    finally:
        subprocess.run([*ssh, "-O", "exit", "guest"], check=False, capture_output=True)
    ratios = [ours / theirs for ours, theirs in zip(took["vm.run"], took["ssh"], strict=True)]
    for name, times in took.items():
        print(f"{name:<8} {statistics.median(times) * 1000:7.1f} ms")
    print(
        f"vm.run takes {statistics.median(ratios):.2f} of what ssh takes "
        f"(half of the rounds from {statistics.quantiles(ratios)[0]:.2f} "
        f"to {statistics.quantiles(ratios)[2]:.2f}; {ROUNDS} rounds)"
    )


def main() -> None:
    """Measure on a private host."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    spec = vmctl.VMSpec.model_validate(
        {
            "name": "guest",
            "image": sys.argv[1],
            "memory": "192MiB",
            "nics": [{"user": True}],
            "cloud_init": {},
        }
    )
    hosts.start_host(HOST)
    try:
        with (
            vmctl.connect(f"private:{HOST}") as host,
            tempfile.TemporaryDirectory() as folder,
        ):
            vm = host.launch(spec)
            measure(vm, Path(folder))
            vm.delete()
    finally:
        hosts.stop_host(HOST, force=True)


if __name__ == "__main__":
    main()
