"""A ``/dev`` of a host's own, with ``/dev/kvm`` only where KVM works.

A ``/dev/kvm`` that opens is not a KVM that works: under some hypervisors guests hang in early
boot with it. libvirt 9.0 besides probes QEMU anew before every operation there (about 9 s),
because what it remembers says "no KVM" while the device is there. Without the device both are
gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import platform
import stat
from collections.abc import Iterator
from pathlib import Path

from vmctl.hypervisor.private import linux

__all__ = ["kvm_works", "mount_own_dev"]

_KVM_CREATE_VM = 0xAE01  # linux/kvm.h: _IO(KVMIO, 0x01)
_OWN_MOUNTS = ("pts", "shm", "mqueue")
_PTY_GROUP = 5  # tty, in every distribution (devpts mounts name it by number)


def kvm_works(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether guests can be expected to run with KVM here.

    The device has to make an (empty) virtual machine, and an x86 processor has to show that it
    has the extensions at all.
    """
    if platform.machine() in {"x86_64", "i686"} and not _has_x86_extensions(cpuinfo):
        return False
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(fcntl.ioctl(descriptor, _KVM_CREATE_VM, 0))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _has_x86_extensions(cpuinfo: Path) -> bool:
    for line in cpuinfo.read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return not {"vmx", "svm"}.isdisjoint(value.split())
    return False


@dataclasses.dataclass(frozen=True, slots=True)
class _Node:
    path: str  # relative to /dev
    status: os.stat_result
    link: str | None


def _nodes(folder: Path, prefix: str = "") -> Iterator[_Node]:
    """Yield what is below ``folder``, a folder before what is in it."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = prefix + entry.name
        if path in _OWN_MOUNTS:
            continue
        try:
            status = entry.stat(follow_symlinks=False)
            link = str(Path(entry.path).readlink()) if entry.is_symlink() else None
        except FileNotFoundError:  # a device that was just taken away
            continue
        yield _Node(path, status, link)
        if entry.is_dir(follow_symlinks=False):
            yield from _nodes(Path(entry.path), path + "/")


def mount_own_dev(*, with_kvm: bool) -> None:
    """Put a folder of device nodes over ``/dev``, in the mount namespace of this process.

    It has the nodes that the machine has now; one that appears later is not seen.

    Args:
        with_kvm: Whether ``/dev/kvm`` is among them.
    """
    nodes = [node for node in _nodes(Path("/dev")) if with_kvm or node.path != "kvm"]
    machine = os.open("/dev", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        linux.mount("vmctl-dev", "/dev", "tmpfs", linux.MS_NOSUID, "mode=0755,size=4m")
        for node in nodes:
            # A node that the machine lets nobody bind or make is one that no guest needs.
            with contextlib.suppress(OSError):
                _make(node, f"/proc/self/fd/{machine}")
    finally:
        os.close(machine)
    _mount_pts()
    shared_memory = Path("/dev", "shm")
    shared_memory.mkdir()
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("vmctl-shm", str(shared_memory), "tmpfs", flags, "mode=1777")


def _make(node: _Node, machine: str) -> None:
    target = Path("/dev", node.path)
    mode = node.status.st_mode
    if node.link is not None:
        target.symlink_to(node.link)
    elif stat.S_ISDIR(mode):
        target.mkdir()
        target.chmod(stat.S_IMODE(mode))
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        try:
            os.mknod(target, mode, node.status.st_rdev)
        except PermissionError:  # in a user namespace; there the machine's own can be borrowed
            target.touch()
            linux.mount(f"{machine}/{node.path}", str(target), None, linux.MS_BIND)
            return
        os.chown(target, node.status.st_uid, node.status.st_gid)
        target.chmod(stat.S_IMODE(mode))


def _mount_pts() -> None:
    Path("/dev/pts").mkdir()
    # libvirt opens the consoles of guests here. The group needs a mapping that a user namespace
    # of one user doesn't have.
    options = "newinstance,ptmxmode=0666,mode=620"
    flags = linux.MS_NOSUID | linux.MS_NOEXEC
    try:
        linux.mount("vmctl-pts", "/dev/pts", "devpts", flags, f"{options},gid={_PTY_GROUP}")
    except OSError:
        linux.mount("vmctl-pts", "/dev/pts", "devpts", flags, options)
    ptmx = Path("/dev/ptmx")
    with contextlib.suppress(OSError):
        linux.unmount(str(ptmx))
    ptmx.unlink(missing_ok=True)
    ptmx.symlink_to("pts/ptmx")
