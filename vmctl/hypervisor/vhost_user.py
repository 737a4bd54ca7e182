"""Whether a host has virtiofsd, of which libvirt's capabilities say nothing.

libvirt finds it when a machine starts, by descriptors that packages install
(https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/vhost-user.json).
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["lacks_virtiofsd"]

_FOLDERS = (Path("/etc/qemu/vhost-user"), Path("/usr/share/qemu/vhost-user"))


def lacks_virtiofsd(uri: str) -> bool:
    """Return whether a host has none for sure: it is this machine, and nothing here names one.

    Args:
        uri: What libvirt was opened with.
    """
    parts = urlsplit(uri)
    is_here = not parts.hostname and parts.scheme.partition("+")[2] in {"", "unix"}
    folders = [folder for folder in _FOLDERS if folder.is_dir()]
    if not is_here or not folders:
        # Of another machine it can't be known, nor where descriptors lie elsewhere.
        return False
    found = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    return not any(map(_names_virtiofsd, found))


def _names_virtiofsd(descriptor: Path) -> bool:
    try:
        content = json.loads(descriptor.read_bytes())
    except (OSError, ValueError):
        # An empty one takes back what a package installed.
        return False
    if not isinstance(content, dict) or content.get("type") != "fs":
        return False
    return Path(str(content.get("binary"))).is_file()
