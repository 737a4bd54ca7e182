"""Whether a host's kernel shows iptables what passes its bridges, as stateful filters need it."""

from __future__ import annotations

from pathlib import Path

from vmctl.hypervisor.uri import HostAddress, resolve

__all__ = ["HINT", "bridges_are_seen", "bridges_of_uri_are_seen"]

HINT = (
    "on the host: modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1 "
    "net.bridge.bridge-nf-call-ip6tables=1"
)
"""What to do where it doesn't."""

_SETTINGS = Path("/proc/sys/net/bridge")
_NAMES = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")


def bridges_are_seen(address: HostAddress) -> bool | None:
    """Return whether it does; None where that can't be seen, for the host is another machine.

    Each network namespace has settings of its own, which begin as 1: of a host that has one, it is
    seen whether the kernel has them at all.
    """
    if not address.is_local:
        return None
    files = [_SETTINGS / name for name in _NAMES]
    if not all(file.exists() for file in files):
        return False
    if address.network_namespace is not None or "socket=" in address.uri:
        return True
    return all(file.read_text(encoding="ascii").strip() == "1" for file in files)


def bridges_of_uri_are_seen(uri: str) -> bool | None:
    """Return the same of the host that a connection's URI names."""
    return bridges_are_seen(resolve(uri))
