"""A client that kills itself at its Nth call that changes something, while it changes a disk.

Run as ``python -m tests.integration.killing_change URI N MACHINE attach``, or with
``detach TARGET``; it prints what `tests.integration.killing_client` prints.
"""

from __future__ import annotations

import sys

import libvirt

import vmctl
from vmctl.spec import DiskSpec

from . import killing_client

_CHANGING = (
    "virDomainAttachDeviceFlags",
    "virDomainDetachDeviceFlags",
    "virDomainDetachDeviceAlias",
)


def main() -> None:
    """Attach a small disk, or detach one and delete its volume."""
    uri, at, name, verb, *target = sys.argv[1:]
    killing_client.CHANGING.update(_CHANGING)
    killer = killing_client.Killer(libvirt.libvirtmod, int(at))
    with vmctl.connect(uri) as host:
        machine = host.get(name)
        libvirt.libvirtmod = killer
        if verb == "attach":
            machine.disks.attach(DiskSpec(size="1MiB"))
        else:
            machine.disks.detach(target[0], delete=True)
        print(killer.count, flush=True)


if __name__ == "__main__":
    main()
