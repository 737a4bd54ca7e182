"""A client that kills itself at its Nth call that changes something on the host.

Run as ``python -m tests.integration.killing_client URI N < spec.yaml`` it launches; with ``import
FILE``, ``export NAME FILE``, ``clone NAME NEW``, ``linked NAME NEW``, ``backup NAME FOLDER`` or
``restore NAME FOLDER`` at the end it does that. It prints the call it died at. With N = 0 it lives,
and prints how many such calls there were.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import libvirt
import libvirt_qemu

import vmctl

# The functions of libvirt's C binding that change something.
CHANGING = {
    "virDomainDefineXMLFlags",
    "virDomainSetMetadata",
    "virDomainCreateWithFlags",
    "virDomainUpdateDeviceFlags",
    "virDomainDestroy",
    "virDomainUndefineFlags",
    "virDomainBackupBegin",
    "virDomainSnapshotCreateXML",
    "virDomainCheckpointDelete",
    "virNetworkCreate",
    "virNetworkUpdate",
    "virNetworkDestroy",
    "virStorageVolCreateXML",
    "virStorageVolCreateXMLFrom",
    "virDomainAbortJob",
    "virDomainQemuAgentCommand",
    "virStorageVolUpload",
    "virStorageVolDelete",
    "virStreamSend",
    "virStreamFinish",
}


class Killer:
    """Stands before libvirt's C binding, counts, and kills: before the call, or after it."""

    def __init__(self, real: Any, at: int, shared: Killer | None = None) -> None:
        self._real = real
        self._at = at
        self._shared = shared or self
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._real, name)
        if name not in CHANGING:
            return function

        def counted(*arguments: Any) -> Any:
            self._step(f"before {name}")
            result = function(*arguments)
            self._step(f"after {name}")
            return result

        return counted

    def _step(self, where: str) -> None:
        self._shared.count += 1
        if self._shared.count == self._at:
            print(where, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def _die_at_define(report: vmctl.Progress) -> None:
    if report.phase == "define":
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Launch what stands on stdin, or do what the arguments say."""
    uri, at, *what = sys.argv[1:]
    killer = Killer(libvirt.libvirtmod, int(at))
    with vmctl.connect(uri) as host:
        match what:
            case ["import", file]:
                libvirt.libvirtmod = killer
                host.import_machine(file)
            case ["export", name, file]:
                libvirt.libvirtmod = killer
                host.get(name).export(file, format="bundle")
            case ["clone", name, new]:
                libvirt.libvirtmod = killer
                libvirt_qemu.libvirtmod_qemu = Killer(libvirt_qemu.libvirtmod_qemu, int(at), killer)
                host.get(name).clone(new)
            case ["linked", name, new]:
                libvirt.libvirtmod = killer
                # Just after its snapshot was taken, too.
                host.get(name).clone(
                    new, linked=True, progress=_die_at_define if at == "-1" else None
                )
            case ["backup", name, folder]:
                libvirt.libvirtmod = killer
                host.get(name).backup(folder)
            case ["restore", name, folder]:
                libvirt.libvirtmod = killer
                host.get(name).restore(folder)
            case _:
                spec = vmctl.VMSpec.from_yaml(sys.stdin.read())
                libvirt.libvirtmod = killer
                host.launch(spec)
        print(killer.count, flush=True)


if __name__ == "__main__":
    main()
