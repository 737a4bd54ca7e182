"""Lines for ``~/.ssh/config``: OpenSSH's own programs reach a guest as vmctl does.

The format, and what its words mean: ssh_config(5).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from vmctl.guest.identity import client_key_path

__all__ = ["render"]


def render(*, host: str, uuid: str, user: str, host_key: str, uri: str) -> str:
    """Return the lines for one machine.

    Args:
        host: The name in ``Host``.
        uuid: The machine's.
        user: The user to log in as.
        host_key: The guest's public host key. ssh itself compares it: it stands in the lines, so
            that there is no file that could be stale, and a key learnt elsewhere doesn't count.
        uri: The machine's host.
    """
    kind, encoded = host_key.split()[:2]
    proxy = shlex.join([*_vmctl(), "--uri", uri, "ssh-proxy", uuid])
    return "\n".join(
        (
            f"Host {host}",
            f"  HostName {uuid}",
            f"  User {user}",
            f"  IdentityFile {_quoted(str(client_key_path()))}",
            "  IdentitiesOnly yes",
            f"  HostKeyAlias {uuid}",
            f"  KnownHostsCommand /bin/echo {uuid} {kind} {encoded}",
            "  UserKnownHostsFile none",
            "  GlobalKnownHostsFile none",
            "  StrictHostKeyChecking yes",
            f"  ProxyCommand {_literal(proxy)}",
            "",
        )
    )


def _vmctl() -> list[str]:
    """Return what runs this vmctl, from whatever folder."""
    program = Path(sys.executable).with_name("vmctl")
    # -P: what lies in the folder that somebody calls ssh from must not be imported.
    return [str(program)] if program.exists() else [sys.executable, "-P", "-m", "vmctl.cli.main"]


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(path: str) -> str:
    return f'"{_literal(path)}"' if any(char in path for char in " \t#") else _literal(path)
