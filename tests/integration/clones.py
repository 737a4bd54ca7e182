"""Machines to clone, and what is on their disks."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import vmctl


def guestless(host: vmctl.Host, folder: Path) -> vmctl.VM:
    """Make a machine with UEFI and two disks, a qcow2 one with data and a raw one, and no guest."""
    (folder / "raw").write_bytes(os.urandom(12 << 20))
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*command, str(folder / "raw"), str(folder / "qcow2")], check=True)
    spec = vmctl.VMSpec.model_validate(
        {
            "name": f"s{uuid.uuid4().hex[:8]}",
            "memory": "64MiB",
            "firmware": "uefi",
            "disks": [{"size": "16MiB"}],
            "nics": [],
        }
    )
    vm = host.import_machine(folder / "qcow2", spec=spec)
    vm.disks.attach(vmctl.DiskSpec.model_validate({"size": "1MiB", "format": "raw"}))
    return vm


def content(vm: vmctl.VM) -> list[bytes]:
    """Return what the disks of a machine that is off show."""
    connection = vm._domain.connection.raw
    found = []
    for disk in vm._domain.disks():
        raw = connection.storageVolLookupByPath(disk.path)
        name = f"flat-{uuid.uuid4().hex[:8]}"
        flat = raw.storagePoolLookupByVolume().createXMLFrom(
            f"<volume><name>{name}</name><capacity>{raw.info()[1]}</capacity>"
            "<target><format type='raw'/></target></volume>",
            raw,
            0,
        )
        try:
            stream = connection.newStream(0)
            flat.download(stream, 0, 0, 0)
            pieces: list[bytes] = []
            stream.recvAll(lambda _stream, piece, into: into.append(piece), pieces)
            stream.finish()
            found.append(b"".join(pieces))
        finally:
            flat.delete(0)
    return found
