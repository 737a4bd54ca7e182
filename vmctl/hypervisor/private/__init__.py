"""A libvirtd of one's own, apart from the machine's.

Everything a private host has, it has in one folder, and everything it runs ends with one process.
docs/explanation/private-hosts.md says how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl._lazy import loaded_when_used

if TYPE_CHECKING:
    from vmctl.hypervisor.private.finding import PrivateHost, find, from_uri, list_hosts
    from vmctl.hypervisor.private.host import start, stop
    from vmctl.hypervisor.private.layout import Kind, Network, state_home
else:
    # Every connection looks whether a private host is meant, and few start one.
    __getattr__ = loaded_when_used(
        __name__,
        {
            "Kind": "vmctl.hypervisor.private.layout",
            "Network": "vmctl.hypervisor.private.layout",
            "PrivateHost": "vmctl.hypervisor.private.finding",
            "find": "vmctl.hypervisor.private.finding",
            "from_uri": "vmctl.hypervisor.private.finding",
            "list_hosts": "vmctl.hypervisor.private.finding",
            "start": "vmctl.hypervisor.private.host",
            "state_home": "vmctl.hypervisor.private.layout",
            "stop": "vmctl.hypervisor.private.host",
        },
    )

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
