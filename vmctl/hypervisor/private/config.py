"""The configuration files of a private host's daemons. Pure text, no I/O."""

from __future__ import annotations

__all__ = ["LIBVIRTD_LOG_LEVEL", "hosts_file", "libvirtd_conf", "qemu_conf", "virtlogd_conf"]

LIBVIRTD_LOG_LEVEL = 3  # warnings and errors


def libvirtd_conf(*, host_uuid: str) -> str:
    """Return ``libvirtd.conf``.

    The socket's folder is closed to everybody but the owner, so the socket itself asks nobody
    who they are. The limits are well above libvirt's own, because here everybody is one user:
    five requests per connection stall whoever creates many guests at once.
    """
    return f"""\
host_uuid = "{host_uuid}"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
unix_sock_admin_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "{LIBVIRTD_LOG_LEVEL}:stderr"
max_workers = 40
prio_workers = 10
max_client_requests = 40
"""


def qemu_conf() -> str:
    """Return ``qemu.conf``.

    No mount namespace per guest: the host has a /dev of its own already, and a namespace per
    guest is built from the machine's. No security driver: the labels of the machine's policy
    don't know these paths. No cgroups: what is made there would outlive the host.
    """
    return """\
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "logd"
"""


def virtlogd_conf() -> str:
    """Return ``virtlogd.conf``: consoles of up to 32 MiB before they are rotated, not 2 MiB."""
    return f"""\
log_outputs = "{LIBVIRTD_LOG_LEVEL}:stderr"
max_size = {32 * 1024 * 1024}
max_backups = 2
"""


def hosts_file(machine: str, name: str) -> str:
    """Return ``/etc/hosts``: the machine's, and a line for the host's own name.

    libvirt looks its own host name up; without the line that is a question to the network.
    """
    return f"{machine.rstrip()}\n127.0.1.1 {name}\n".lstrip()
