"""A client that kills itself at its Nth call that changes something, while it is at snapshots.

Run as ``python -m tests.integration.killing_snapshot URI N MACHINE VERB NAME``, where the verb is
``create``, ``revert`` or ``delete``; it prints
what `tests.integration.killing_client` prints.
"""

from __future__ import annotations

import sys

import libvirt

import vmctl

from . import killing_client

_CHANGING = (
    "virDomainBlockCommit",
    "virDomainBlockJobAbort",
    "virDomainSnapshotDelete",
    "virDomainRestoreFlags",
    "virDomainResume",
    "virDomainRevertToSnapshot",
    "virDomainSnapshotCreateXML",
    "virDomainSuspend",
    "virStorageVolCreateXMLFrom",
)


def main() -> None:
    """Take a snapshot, go back to one, or delete one."""
    uri, at, name, verb, snapshot = sys.argv[1:]
    killing_client.CHANGING.update(_CHANGING)
    killer = killing_client.Killer(libvirt.libvirtmod, int(at))
    with vmctl.connect(uri) as host:
        machine = host.get(name)
        libvirt.libvirtmod = killer
        if verb == "create":
            machine.snapshots.create(snapshot)
        elif verb == "revert":
            machine.snapshots.revert(snapshot)
        else:
            machine.snapshots.delete(snapshot)
        print(killer.count, flush=True)


if __name__ == "__main__":
    main()
