"""The files that QEMU itself has open as disks, which libvirt may know nothing of.

libvirtd can be killed between what it lets QEMU do and the writing down of it.
https://qemu.readthedocs.io/en/v7.2.0/interop/qemu-qmp-ref.html#qapidoc-489
"""

from __future__ import annotations

import json

import libvirt_qemu

from vmctl.hypervisor.domains import Domain

__all__ = ["open_files"]


def open_files(domain: Domain) -> frozenset[str]:
    """Return the paths of the files that a running machine's QEMU has open. Taints the machine."""
    command = {"execute": "query-named-block-nodes", "arguments": {"flat": True}}
    with domain.acting("ask for the open files of") as raw:
        answer = libvirt_qemu.qemuMonitorCommand(raw, json.dumps(command), 0)
    return frozenset(node["file"] for node in json.loads(answer)["return"])
