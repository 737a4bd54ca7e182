#!/usr/bin/env python3
"""How much time vmctl adds from the call to a running domain.

It brings up a private host, and in turn, in one process, makes the same machine with bare libvirt
calls and with vmctl. Printed are the medians, their ratio pair by pair, and where the time goes.

    .venv/bin/python benchmarks/launch_overhead.py [PAIRS]
"""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import libvirt
from lxml import etree

import vmctl
from vmctl import hosts
from vmctl.render.volume import render_volume

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 15
HOST = "bench"


def bare_launch(raw: libvirt.virConnect, template: str, base: str, seed: bytes, name: str) -> float:
    """Do what a script without vmctl would: overlay, seed, define, start. Returns seconds."""
    began = time.perf_counter()
    pool = raw.storagePoolLookupByName("default")
    overlay = render_volume(f"{name}.qcow2", capacity=1 << 30, format="qcow2", backing_path=base)
    disk = pool.createXML(overlay)
    volume = pool.createXML(render_volume(f"{name}.iso", capacity=len(seed), format="raw"))
    stream = raw.newStream()
    volume.upload(stream, 0, len(seed))
    stream.sendAll(lambda _stream, size, source: source.read(size), io.BytesIO(seed))
    stream.finish()
    xml = template.format(name=name, disk=disk.path(), seed=volume.path())
    domain = raw.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    domain.create()
    took = time.perf_counter() - began
    domain.destroy()
    domain.undefine()
    disk.delete()
    volume.delete()
    return took


def as_template(xml: str) -> tuple[str, str]:
    """Return a machine's XML with places for name, disk and seed, and its seed's path."""
    root = etree.fromstring(xml)
    for node in (*root.findall("uuid"), *root.findall("metadata"), *root.iter("log")):
        parent = node.getparent()
        if parent is not None:
            parent.remove(node)
    disk, seed = root.findall("devices/disk/source")
    path = seed.get("file") or ""
    disk.set("file", "{disk}")
    seed.set("file", "{seed}")
    for node in root.findall("name"):
        node.text = "{name}"
    return etree.tostring(root, encoding="unicode"), path


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
    raw = host._connection.raw
    # One of each before it counts: caches are warm, and the base image is in the pool.
    example = host.create(spec)
    template, seed_path = as_template(example.xml(inactive=True))
    pool = raw.storagePoolLookupByName("default")
    base = next(v.path() for v in pool.listAllVolumes() if v.name().startswith("sha256-"))
    seed = bytearray()
    stream = raw.newStream()
    raw.storageVolLookupByPath(seed_path).download(stream, 0, 0)
    stream.recvAll(lambda _stream, data, into: into.extend(data), seed)
    stream.finish()
    example.delete()

    bare, ours = [], []
    phases: dict[str, list[float]] = defaultdict(list)

    def note(progress: vmctl.Progress) -> None:
        if progress.state == "end":
            phases[progress.phase].append(progress.elapsed)

    for number in range(PAIRS + 1):
        first = bare_launch(raw, template, base, bytes(seed), f"bare{number}")
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
