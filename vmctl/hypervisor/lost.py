"""Machines whose QEMU libvirt has lost: it takes them for shut off, and they run on.

libvirt (9.0, virDomainDiskDefMirrorParse) can't read what it wrote down of a machine itself in the
moment in which the merging of a disk ends (qemuBlockJobEventProcess). When libvirtd is killed just
then, the one that is started next passes over the machine, and nobody can reach its QEMU any more.

QEMU locks the files of its disks; that another program can't open them tells that it is there.
https://www.qemu.org/docs/master/system/images.html#disk-image-file-locking
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from vmctl.errors import ConflictError, HypervisorError, NotFoundError, WrongStateError
from vmctl.hypervisor.chains import read_chain
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.errors import is_code
from vmctl.hypervisor.sharing import refuse_disks_in_use
from vmctl.hypervisor.volumes import at_path

__all__ = ["is_lost", "looking_for_lost", "refuse_lost"]


def is_lost(domain: Domain) -> bool:
    """Return whether QEMU has a disk of a machine that is off, and of no other machine.

    Only a qcow2 file in a pool tells, whose layers are all there; that of a snapshot is one always.
    """
    if domain.is_active() or not any(_is_locked(domain, path) for path in _tops(domain)):
        return False
    try:
        refuse_disks_in_use(domain)
    except ConflictError:
        return False
    return True


def _tops(domain: Domain) -> Iterator[str]:
    for disk in domain.disks():
        if disk.format == "qcow2" and disk.path and not disk.read_only:
            layers = read_chain(domain.connection, disk.path, disk.format)
            if all(layer.capacity is not None for layer in layers):
                yield disk.path


def _is_locked(domain: Domain, path: str) -> bool:
    # Given the size that it has, libvirt lets qemu-img open it for writing, and write nothing.
    try:
        volume = at_path(domain.connection, path)
        capacity = volume.facts().capacity
        raw = volume.raw()
    except NotFoundError:
        return False
    try:
        raw.resize(capacity, 0)
    except libvirt.libvirtError as error:
        return is_code(error, libvirt.VIR_ERR_INTERNAL_ERROR)
    return False


def refuse_lost(domain: Domain) -> None:
    """Refuse to go on with a machine whose QEMU is there though libvirt takes it for shut off.

    Raises:
        WrongStateError: It is so.
    """
    if is_lost(domain):
        raise WrongStateError(
            f"libvirt has lost '{domain.name}': it takes it for {State.SHUT_OFF.value}, and its "
            "QEMU is there and has its disks",
            state=State.SHUT_OFF.value,
            details="libvirtd was killed in the moment in which a block job ended, or somebody "
            "else has opened the disks",
            hint=f"end that QEMU on its host, `pkill -f 'uuid {domain.uuid}'`, which nothing on "
            "the disks is lost by; then `vmctl gc`, and start it",
        )


@contextmanager
def looking_for_lost(domain: Domain) -> Iterator[None]:
    """Say of a machine that can't be started in the block that its QEMU is there, if it is."""
    try:
        yield
    except HypervisorError:
        refuse_lost(domain)
        raise
