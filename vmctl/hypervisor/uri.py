"""Which libvirt is meant, and how a client gets to the machine it runs on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from vmctl.errors import UsageError
from vmctl.hypervisor.private.finding import from_uri

__all__ = ["HostAddress", "default_uri", "resolve"]

# Of the one daemon for all, and of the one for QEMU alone (https://libvirt.org/daemons.html).
_SYSTEM_SOCKETS = (Path("/run/libvirt/libvirt-sock"), Path("/run/libvirt/virtqemud-sock"))


@dataclass(frozen=True, kw_only=True)
class HostAddress:
    """A hypervisor, as a client finds it.

    Attributes:
        uri: What libvirt is opened with.
        name: What the user called it.
        network_namespace: File of the network namespace its guests live in, where that is not the
            client's own.
        ssh_host: The host to go through, for a remote one; empty for this machine.
        ssh_user: The user there; empty for the one SSH would take.
        ssh_port: The port there; None for the one SSH would take.
        ssh_keyfile: The key to log in with there (the URI's ``keyfile``).
        ssh_verify: Whether its host key is checked (not with the URI's ``no_verify=1``).
    """

    uri: str
    name: str
    network_namespace: Path | None = None
    ssh_host: str = ""
    ssh_user: str = ""
    ssh_port: int | None = None
    ssh_keyfile: str = ""
    ssh_verify: bool = True

    @property
    def is_local(self) -> bool:
        """Whether the hypervisor runs on the client's machine."""
        return not self.ssh_host


def default_uri() -> str:
    """Return the URI that is meant when none is given.

    ``VMCTL_URI``, else the system's libvirt where this user may use it, else the user's session.
    """
    if uri := os.environ.get("VMCTL_URI"):
        return uri
    if os.geteuid() == 0 or any(os.access(path, os.W_OK) for path in _SYSTEM_SOCKETS):
        return "qemu:///system"
    return "qemu:///session"


def resolve(uri: str | None) -> HostAddress:
    """Find the hypervisor that ``uri`` names.

    Args:
        uri: A libvirt URI (https://libvirt.org/uri.html), ``private:NAME``, or None for
            `default_uri`.

    Raises:
        UsageError: It is no URI.
        NotFoundError: There is no private host of that name.
        HostUnavailableError: The private host does not run.
    """
    wanted = uri or default_uri()
    if wanted.startswith("private:"):
        host = from_uri(wanted)
        return HostAddress(uri=host.uri, name=wanted, network_namespace=host.network_namespace)
    try:
        parts = urlsplit(wanted)
        port = parts.port
    except ValueError:  # brackets that don't match, a port that is no number
        parts, port = urlsplit(""), None
    if not parts.scheme:
        raise UsageError(
            f"{wanted!r} is not a libvirt URI",
            hint="write for example qemu:///system, qemu+ssh://root@node1/system or private:NAME",
        )
    _, _, transport = parts.scheme.partition("+")
    if transport in {"", "unix"} and not parts.hostname:
        return HostAddress(uri=wanted, name=wanted)
    # libvirt parts parameters at semicolons too (virURIParseParams).
    options = parse_qs(parts.query.replace(";", "&"))
    if "command" in options:
        raise UsageError(
            f"the URI {wanted!r} names a command to run",
            hint="put what SSH needs into ~/.ssh/config instead",
        )
    return HostAddress(
        uri=wanted,
        name=wanted,
        ssh_host=parts.hostname or "",
        ssh_user=parts.username or "",
        ssh_port=port if transport.endswith("ssh") else None,
        ssh_keyfile=options.get("keyfile", [""])[0],
        ssh_verify=options.get("no_verify", ["0"])[0] != "1",
    )
