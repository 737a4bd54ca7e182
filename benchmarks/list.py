#!/usr/bin/env python3
"""What it takes to list the machines of a host: `vmctl list`, `virsh list`, and the bare call.

It brings up a private host with so many defined machines, and in turn runs each of them. Printed
are the medians. The two commands are processes of their own, so the start of the interpreter
counts; `host.list()` is what a program that is connected already waits for.

    .venv/bin/python benchmarks/list.py [MACHINES [ROUNDS]]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import libvirt

import vmctl
from vmctl import hosts

MACHINES = int(sys.argv[1]) if len(sys.argv) > 1 else 200
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 15
HOST = "bench"


def main() -> None:
    """Measure, and print."""
    hosts.start_host(HOST)
    try:
        with vmctl.connect(f"private:{HOST}") as host:
            define(host._connection.raw)
            measure(host)
    finally:
        hosts.stop_host(HOST, force=True)


def define(raw: libvirt.virConnect) -> None:
    """Define the machines; none of them runs."""
    for number in range(MACHINES):
        raw.defineXML(
            f"<domain type='qemu'><name>m{number}</name><uuid>{uuid.uuid4()}</uuid>"
            "<memory unit='MiB'>64</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>"
            "</domain>"
        )


def measure(host: vmctl.Host) -> None:
    """Take each of them in turn, and print what it took."""
    raw = host._connection.raw
    vmctl_command = [str(Path(sys.executable).with_name("vmctl")), "--uri", f"private:{HOST}"]
    virsh_command = ["virsh", "--connect", host._connection.uri]

    def run(*command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    ways: dict[str, Callable[[], object]] = {
        "virConnectGetAllDomainStats": lambda: raw.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_INTERFACE, 0
        ),
        "host.list()": host.list,
        "host.list(details=True)": lambda: host.list(details=True),
        "virsh list --all": lambda: run(*virsh_command, "list", "--all"),
        "vmctl list": lambda: run(*vmctl_command, "list"),
        "vmctl list --long": lambda: run(*vmctl_command, "list", "--long"),
    }
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, call in ways.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    print(f"machines: {MACHINES}, rounds: {ROUNDS}")
    for name, taken in times.items():
        print(f"{name:<28} {statistics.median(taken) * 1000:8.1f} ms")


if __name__ == "__main__":
    main()
