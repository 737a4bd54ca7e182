"""What separates a private host from the machine: its namespaces, and what is mounted in them.

This runs in the host's first process, after it was given a PID namespace and before it has any
children. Nothing here needs undoing: the mounts end with the namespace, the namespace with its
processes.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from vmctl.hypervisor.private import linux
from vmctl.hypervisor.private.devices import kvm_works, mount_own_dev
from vmctl.hypervisor.private.layout import Layout, Network

__all__ = ["MACHINE_FOLDERS", "confine_session", "confine_system", "map_current_user"]

# What libvirtd, virtlogd, dnsmasq, swtpm and iptables write to, by the folder below the host's
# state that takes its place. /run as a whole: it has iptables' lock and the sockets of the
# system bus, by which libvirt would register guests with the machine's systemd and firewalld.
MACHINE_FOLDERS = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "swtpm": "/var/lib/swtpm-localca",
    "log": "/var/log",
    "run": "/run",
}


def confine_system(layout: Layout, network: Network) -> None:
    """Separate a host of root's from the machine.

    Raises:
        OSError: The kernel refuses, which the message names.
    """
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC
    if network == "own":
        flags |= linux.CLONE_NEWNET
    linux.unshare(flags)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    _mount_proc()
    _bind_folders(layout)
    _hide_cgroups()
    if network == "own":
        _mount_sys_of_own_network()
        linux.loopback_up()
    mount_own_dev(with_kvm=kvm_works())
    socket.sethostname(layout.name)


def confine_session(uid: int) -> None:
    """Separate an ordinary user's host from the machine, in a user namespace made before.

    Raises:
        OSError: The kernel refuses; some let users have namespaces, but no mounts in them.
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    _mount_proc()
    if Path("/dev/kvm").exists() and not kvm_works():
        mount_own_dev(with_kvm=False)
    if os.geteuid() != uid:
        raise PermissionError(f"user {uid} became {os.geteuid()} in the user namespace")


def map_current_user(uid: int, gid: int) -> None:
    """Let this user and group be themselves in the user namespace that was just made."""
    # Without this the kernel refuses the group map (user_namespaces(7), CVE-2014-8989).
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")


def _mount_proc() -> None:
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("proc", "/proc", "proc", flags)


def _bind_folders(layout: Layout) -> None:
    with contextlib.ExitStack() as stack:
        binds = []
        # All are opened before the first is mounted: the state itself may be below one of them.
        for name, target in (*MACHINE_FOLDERS.items(), ("hosts-file", "/etc/hosts")):
            if Path(target).exists():
                source = os.open(layout.state_dir / name, os.O_PATH | os.O_CLOEXEC)
                stack.callback(os.close, source)
                binds.append((source, target))
        for source, target in binds:
            linux.mount(f"/proc/self/fd/{source}", target, None, linux.MS_BIND)


def _hide_cgroups() -> None:
    """Take every cgroup hierarchy away, so that libvirt can't leave anything in them."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    # The last mounted first. Fields: proc_pid_mountinfo(5).
    for line in reversed(mounts):
        before, _, after = line.partition(" - ")
        if after.split()[0] in {"cgroup", "cgroup2"}:
            target = before.split()[4].encode().decode("unicode_escape")
            linux.unmount(target, linux.MNT_DETACH)


def _mount_sys_of_own_network() -> None:
    """Show this network namespace's devices in /sys, where libvirt and dnsmasq look for bridges."""
    linux.unmount("/sys", linux.MNT_DETACH)
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("sysfs", "/sys", "sysfs", flags)
