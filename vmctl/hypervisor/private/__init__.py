"""A libvirtd of one's own, apart from the machine's.

Everything a private host has, it has in one folder, and everything it runs ends with one process.
docs/explanation/private-hosts.md says how.
"""

from __future__ import annotations

from vmctl.hypervisor.private.host import (
    PrivateHost,
    find,
    from_uri,
    list_hosts,
    start,
    stop,
)
from vmctl.hypervisor.private.layout import Kind, Network, state_home

__all__ = [
    "Kind",
    "Network",
    "PrivateHost",
    "find",
    "from_uri",
    "list_hosts",
    "start",
    "state_home",
    "stop",
]
