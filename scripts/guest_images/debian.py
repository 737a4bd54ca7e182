"""Unpack Debian packages into a folder with mmdebstrap, from where this host gets its own."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from guest_images.commands import run
from guest_images.errors import BuildError

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# What of the host's apt configuration decides whether its mirror can be reached and believed.
_CARRIED_SETTINGS = re.compile(
    r"Acquire::(?:https?|Retries|ForceIPv[46]|Check-Date|Check-Valid-Until)\b.*;"
)
_TARGET = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"


def bootstrap(
    folder: Path, variant: str, packages: Sequence[str], options: Sequence[str] = ()
) -> None:
    """Make a Debian tree in `folder`; `variant` and `options` are mmdebstrap's."""
    sources = host_sources()
    settings = [f"--aptopt={setting}" for setting in _host_settings()]
    # Without sources mmdebstrap takes its own default mirror for the suite.
    run(
        [
            "mmdebstrap",
            f"--variant={variant}",
            "--architectures=amd64",
            "--components=main",
            f"--include={','.join(packages)}",
            *settings,
            *options,
            SUITE,
            folder,
            *(["-"] if sources else []),
        ],
        stdin="".join(f"{line}\n" for line in sources),
    )
    # How this host reaches its mirror is nobody's business in the guest.
    (folder / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    (folder / "etc/apt/sources.list").unlink(missing_ok=True)


def host_sources() -> list[str]:
    """The host's apt sources for the suite that are Debian's own, as lines of sources.list."""
    if shutil.which("apt-get") is None:
        return []
    try:
        listing = run(["apt-get", "indextargets", "--format", _TARGET, "Created-By: Packages"])
    except BuildError:
        return []
    signed_by = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    sources = []
    for target in dict.fromkeys(listing.splitlines()):
        origin, release, component, uri = target.split("|")
        # apt knows the origin once it has fetched the lists; before that, Debian's mirrors are
        # told by their usual path.
        unknown = origin.startswith("$(")
        is_debian = uri.rstrip("/").endswith(("/debian", "/debian-security"))
        wanted = release in (SUITE, f"{SUITE}-updates", f"{SUITE}-security") and component == "main"
        if wanted and (origin == "Debian" or (unknown and is_debian)):
            sources.append(f"deb {signed_by}{uri} {release} main")
    return sources if any(line.endswith(f" {SUITE} main") for line in sources) else []


def _host_settings() -> list[str]:
    """The host's proxy, certificate and date settings, as apt options."""
    if shutil.which("apt-config") is None:
        return []
    return [line for line in run(["apt-config", "dump"]).splitlines() if _is_carried(line)]


def _is_carried(setting: str) -> bool:
    return bool(_CARRIED_SETTINGS.fullmatch(setting)) and not setting.endswith(' "";')
