"""Where Debian packages come from, as lines of sources.list(5)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence

from vmctl.errors import VmctlError
from vmctl.imaging.build.tools import KEYRING, run

__all__ = ["for_guest", "from_host", "from_mirrors", "host_settings", "translated"]

# What of the host's apt configuration decides whether its mirror can be reached and believed.
_CARRIED_SETTINGS = re.compile(
    r"Acquire::(?:https?|Retries|ForceIPv[46]|Check-Date|Check-Valid-Until)\b.*;"
)
_TARGET = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
_SUFFIXES = ("", "-updates", "-security")
_OPTIONS = re.compile(r"\[[^\]]*\] ")


def from_mirrors(mirrors: Iterable[str], suite: str) -> list[str]:
    """Return the sources that a user named, URLs or whole lines, for a suite."""
    return [
        source if source.startswith("deb ") else _line(source, _suite_at(source, suite))
        for source in mirrors
    ]


def _suite_at(url: str, suite: str) -> str:
    return f"{suite}-security" if url.rstrip("/").endswith("-security") else suite


def _line(url: str, release: str) -> str:
    signed_by = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    return f"deb {signed_by}{url} {release} main"


def from_host(suite: str) -> list[str]:
    """Return the host's own sources of Debian packages, for a suite.

    A host with another suite has the same mirror asked for this one. The list is empty where the
    host is no Debian.
    """
    if shutil.which("apt-get") is None:
        return []
    try:
        listing = run(["apt-get", "indextargets", "--format", _TARGET, "Created-By: Packages"])
    except VmctlError:
        return []
    return translated(listing.splitlines(), suite)


def translated(targets: Iterable[str], suite: str) -> list[str]:
    """Return sources for a suite from apt's index targets, ``origin|release|component|URL``."""
    found: dict[str, dict[str, str]] = {}
    for target in dict.fromkeys(targets):
        origin, release, component, url = target.split("|")
        if component == "main" and _is_debian(origin, url):
            own, suffix = _split(release)
            found.setdefault(own, {}).setdefault(suffix, url)
    # The suite itself where the host has it; else the first that is there as a whole.
    complete = [own for own, urls in found.items() if "" in urls]
    chosen = suite if suite in complete else next(iter(complete), None)
    if chosen is None:
        return []
    urls = found[chosen]
    return [_line(urls[suffix], f"{suite}{suffix}") for suffix in _SUFFIXES if suffix in urls]


def _is_debian(origin: str, url: str) -> bool:
    # apt knows the origin once it has fetched the lists; before that, Debian's mirrors are told by
    # their usual path.
    unknown = origin.startswith("$(")
    usual = url.rstrip("/").endswith(("/debian", "/debian-security"))
    return origin == "Debian" or (unknown and usual)


def _split(release: str) -> tuple[str, str]:
    for suffix in _SUFFIXES[1:]:
        if release.endswith(suffix):
            return release.removesuffix(suffix), suffix
    return release, ""


def for_guest(sources: Sequence[str]) -> list[str]:
    """Return what of the builder's sources a guest can use.

    It has Debian's keys where its own apt looks for them, and no folder of this host's.
    """
    lines = []
    for source in sources:
        kept = "[trusted=yes] " if "trusted=yes" in source else ""
        plain = _OPTIONS.sub(kept, source, count=1)
        url = plain.removeprefix(f"deb {kept}").partition(" ")[0]
        if url.startswith(("http://", "https://")):
            lines.append(plain)
    return lines


def host_settings() -> list[str]:
    """Return the host's proxy, certificate and date settings, as apt options."""
    if shutil.which("apt-config") is None:
        return []
    return [line for line in run(["apt-config", "dump"]).splitlines() if _is_carried(line)]


def _is_carried(setting: str) -> bool:
    return bool(_CARRIED_SETTINGS.fullmatch(setting)) and not setting.endswith(' "";')
