"""What a host is known not to have, of which libvirt's capabilities say nothing.

Of another machine nothing is known; what it lacks is said when a machine that needs it starts.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

__all__ = ["known_to_lack"]

_KERNEL = Path("/proc/config.gz")
# What libvirt's `<bandwidth>` takes: virNetDevBandwidthSet in src/util/virnetdevbandwidth.c.
# Whether the kernel shows its firewall what bridges carry (ip-sysctl of the kernel, bridge).
_BRIDGES = Path("/proc/sys/net/bridge")
_SHOWN = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
_SHAPING = ("NET_SCH_HTB", "NET_SCH_SFQ", "NET_SCH_INGRESS", "NET_ACT_POLICE")


def known_to_lack(uri: str, *, privileged: bool) -> frozenset[str]:
    """Return what the host lacks for sure.

    Args:
        uri: What libvirt was opened with.
        privileged: Whether it is the system's libvirt; a session's puts guests into no cgroups.

    Returns:
        Any of ``shaping``, without which no NIC is limited, ``cpu-limits``, and ``bridge-filters``,
        without which nothing keeps a tenant's guest from its host.
    """
    parts = urlsplit(uri)
    is_here = not parts.hostname and parts.scheme.partition("+")[2] in {"", "unix"}
    # A private host's guests are in no cgroups: what is made there would outlive the host.
    private = "socket" in parse_qs(parts.query)
    found = {"cpu-limits"} if private or not privileged else set()
    if is_here and _lacks_shaping(_KERNEL):
        found.add("shaping")
    # A private host has a network namespace of its own, in which it is switched on.
    if is_here and not private and any(map(_is_switched_off, _SHOWN)):
        found.add("bridge-filters")
    return frozenset(found)


def _is_switched_off(name: str) -> bool:
    """Return whether a setting is off; one that isn't there comes, and is on, with the first rule.

    The kernel loads br_netfilter for libvirt's rules by itself (net/netfilter/xt_physdev.c).
    """
    try:
        return (_BRIDGES / name).read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


@cache
def _lacks_shaping(config: Path) -> bool:
    """Return whether the running kernel was built without; False where it doesn't say so."""
    try:
        lines = set(gzip.decompress(config.read_bytes()).decode().splitlines())
    except (OSError, ValueError):
        return False
    return any(f"# CONFIG_{name} is not set" in lines for name in _SHAPING)
