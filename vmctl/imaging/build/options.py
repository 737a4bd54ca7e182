"""What a user may choose about an image that is built."""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import dataclass

from vmctl.errors import UnsupportedError, UsageError

__all__ = ["DEFAULT_SIZE", "Options", "check_architecture"]

MIB = 1 << 20
DEFAULT_SIZE = 3072 * MIB
"""The disk's size in bytes, where nobody asks for another; a launch makes it grow."""
_SMALLEST = 1536 * MIB
# 2 TiB: what is bigger belongs on a disk of its own.
_LARGEST = 2 << 40

# Source: Debian Policy 5.6.7.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+", re.ASCII)
_URL = re.compile(r"(?:https?|file|copy)://?[^\s\[\]\"'\\]+", re.ASCII)
_LINE = re.compile(r"deb (?:\[[^\[\]\n]+\] )?(\S+) \S.*", re.ASCII)
_PASSWORD = re.compile(r"://[^/\s]*@")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen. Making one checks it.

    Attributes:
        packages: Debian packages to install beside the recipe's own.
        offline: Debian packages that go into a repository in the image, from which a guest
            installs them without a network; it and the mirrors that are named here are then the
            guest's only sources.
        mirror: Where packages come from: the URLs of Debian mirrors, or whole lines as in
            sources.list(5). Of a URL the release's own suite is taken, and its security suite
            where the URL ends in ``-security``. Empty: where the host gets its own, or Debian's
            own server.
        size: The disk's size in bytes, a whole number of MiB.

    Raises:
        UsageError: One of them makes no sense.
    """

    packages: tuple[str, ...] = ()
    offline: tuple[str, ...] = ()
    mirror: tuple[str, ...] = ()
    size: int = DEFAULT_SIZE

    def __post_init__(self) -> None:
        for name in (*self.packages, *self.offline):
            if not _PACKAGE.fullmatch(name):
                raise UsageError(
                    f"{name!r} is not the name of a Debian package",
                    hint="write names as apt takes them, one for each package: nginx, tmux",
                )
        for source in self.mirror:
            _check_mirror(source)
        _check_size(self.size)

    def variant(self) -> str:
        """Return what tells images of one recipe with different options apart; empty for none."""
        if self == Options():
            return ""
        parts = (sorted(self.packages), sorted(self.offline), self.mirror, self.size)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _check_mirror(source: str) -> None:
    line = _LINE.fullmatch(source)
    if line is None and not _URL.fullmatch(source):
        raise UsageError(
            f"{source!r} is neither the URL of a mirror nor a line of sources.list",
            hint="write http://MIRROR/debian, or 'deb http://MIRROR/debian SUITE main'",
        )
    if _PASSWORD.search(source):
        # Not repeated here: what it holds is a secret, and the guest's sources would show it.
        raise UsageError(
            "the URL of a mirror has a user's name or password in it",
            hint="use a mirror, or a proxy on this machine, that asks for none",
        )


def _check_size(size: int) -> None:
    if not _SMALLEST <= size <= _LARGEST:
        raise UsageError(
            f"an image of {size / MIB:.0f} MiB can't be built",
            hint=f"the size must be between {_SMALLEST // MIB} MiB and {_LARGEST >> 40} TiB",
        )
    if size % MIB:
        raise UsageError(
            f"{size} bytes are not a whole number of MiB",
            hint=f"give a multiple of {MIB}",
        )


def check_architecture(wanted: str | None) -> None:
    """Refuse what can't be built here.

    Args:
        wanted: The architecture as QEMU and the kernel call it; None for this machine's.

    Raises:
        UnsupportedError: It is not this machine's, or none that there are recipes for.
    """
    here = platform.machine()
    if wanted is not None and wanted != here:
        raise UnsupportedError(
            f"an image for {wanted} can't be built on this machine, which is {here}",
            hint=f"build it on a machine of that architecture, or leave it at {here}",
        )
    if here != "x86_64":
        raise UnsupportedError(
            f"images can be built on x86_64 only, and this machine is {here}",
            hint="pull an image for this architecture instead",
        )
