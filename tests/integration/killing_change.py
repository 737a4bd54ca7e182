"""A client that kills itself at its Nth call that changes something, while it changes a disk.

Run as ``python -m tests.integration.killing_change URI N MACHINE attach``, or with
``detach TARGET``, ``limit``, ``vcpus``, ``memory`` or ``link MAC``; it prints what
`tests.integration.killing_client` prints.
"""

from __future__ import annotations

import sys

import libvirt

import vmctl
from vmctl.spec import DiskSpec, IoTuneSpec

from . import killing_client

_CHANGING = (
    "virDomainAttachDeviceFlags",
    "virDomainDetachDeviceFlags",
    "virDomainDetachDeviceAlias",
    "virDomainSetBlockIoTune",
    "virDomainSetVcpusFlags",
    "virDomainUpdateDeviceFlags",
)


def main() -> None:
    """Change the machine."""
    uri, at, name, verb, *target = sys.argv[1:]
    killing_client.CHANGING.update(_CHANGING)
    killer = killing_client.Killer(libvirt.libvirtmod, int(at))
    with vmctl.connect(uri) as host:
        machine = host.get(name)
        libvirt.libvirtmod = killer
        if verb == "attach":
            machine.disks.attach(DiskSpec(size="1MiB"))
        elif verb == "detach":
            machine.disks.detach(target[0], delete=True)
        elif verb == "limit":
            machine.disks.set_limits("vda", IoTuneSpec(total_iops_sec=100))
        elif verb == "vcpus":
            machine.set_vcpus(2)
        elif verb == "memory":
            machine.set_memory("48MiB")
        else:
            machine.nics.set_link(target[0], up=False)
        print(killer.count, flush=True)


if __name__ == "__main__":
    main()
