"""The programs that a private host is made of, and the Debian packages they come in."""

from __future__ import annotations

import os
import shutil

from vmctl.errors import UnsupportedError

__all__ = ["find", "package_of", "require", "search_path"]

_PACKAGES = {
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon-system",
    "dnsmasq": "dnsmasq-base",
    "iptables": "iptables",
}
# Where Debian puts daemons. An ordinary user's PATH lacks these.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")


def search_path() -> str:
    """Return ``PATH`` of this process with the folders for daemons added at its end."""
    given = [part for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    return os.pathsep.join(dict.fromkeys((*given, *_SYSTEM_FOLDERS)))


def find(program: str) -> str | None:
    """Return the path of ``program``, or None."""
    return shutil.which(program, path=search_path())


def package_of(program: str) -> str:
    """Return the Debian package that ``program`` comes in."""
    return _PACKAGES[program]


def require(program: str) -> str:
    """Return the path of ``program``.

    Raises:
        UnsupportedError: It isn't installed.
    """
    path = find(program)
    if path is None:
        raise UnsupportedError(
            f"a private host needs the program {program}, which is not installed",
            hint=f"install the package {package_of(program)} (Debian and Ubuntu)",
        )
    return path
