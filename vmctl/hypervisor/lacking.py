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
_SHAPING = ("NET_SCH_HTB", "NET_SCH_SFQ", "NET_SCH_INGRESS", "NET_ACT_POLICE")


def known_to_lack(uri: str, *, privileged: bool) -> frozenset[str]:
    """Return what the host lacks for sure.

    Args:
        uri: What libvirt was opened with.
        privileged: Whether it is the system's libvirt; a session's puts guests into no cgroups.

    Returns:
        Any of ``shaping``, without which no NIC is limited, and ``cpu-limits``.
    """
    parts = urlsplit(uri)
    is_here = not parts.hostname and parts.scheme.partition("+")[2] in {"", "unix"}
    # A private host's guests are in no cgroups: what is made there would outlive the host.
    private = "socket" in parse_qs(parts.query)
    found = {"cpu-limits"} if private or not privileged else set()
    if is_here and _lacks_shaping(_KERNEL):
        found.add("shaping")
    return frozenset(found)


@cache
def _lacks_shaping(config: Path) -> bool:
    """Return whether the running kernel was built without; False where it doesn't say so."""
    try:
        lines = set(gzip.decompress(config.read_bytes()).decode().splitlines())
    except (OSError, ValueError):
        return False
    return any(f"# CONFIG_{name} is not set" in lines for name in _SHAPING)
