"""What a disk's data comes from: a file, a device, or a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vmctl.spec.network_disk import NetworkDiskSpec

__all__ = ["DiskSource", "ServerAddress", "as_source", "from_spec"]


@dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """Where a server listens: a host and a port, or a UNIX socket on the host."""

    name: str | None = None
    port: int | None = None
    socket: str | None = None


@dataclass(frozen=True, kw_only=True)
class DiskSource:
    """libvirt's ``<source>`` of a disk.

    Attributes:
        type: ``file``, ``block`` or ``network``: the disk's type.
        path: Path of a file or a device on the host.
        protocol: ``nbd``, ``iscsi`` or ``rbd``.
        name: The export, ``IQN/LUN`` or ``POOL/IMAGE``; None where the server has one alone.
        servers: Where the data is served.
        initiator: The iSCSI name that the host calls itself.
        username: Who logs in.
        secret_usage: The usage name of libvirt's secret with the password.
        secret_uuid: Or its UUID.
    """

    type: Literal["file", "block", "network"]
    path: str | None = None
    protocol: str | None = None
    name: str | None = None
    servers: tuple[ServerAddress, ...] = ()
    initiator: str | None = None
    username: str | None = None
    secret_usage: str | None = None
    secret_uuid: str | None = None

    @property
    def key(self) -> str:
        """What tells it from other sources: its path, or protocol and name."""
        return self.path or f"{self.protocol}:{self.name}"

    @property
    def secret_type(self) -> str:
        """The kind of secret that libvirt wants for the protocol."""
        return {"rbd": "ceph"}.get(self.protocol or "", self.protocol or "")


def as_source(place: str | DiskSource | None) -> DiskSource | None:
    """Return what a placement says of a drive; a mere path is that of a file."""
    return DiskSource(type="file", path=place) if isinstance(place, str) else place


def from_spec(spec: NetworkDiskSpec) -> DiskSource:
    """Return the source of a disk that a spec takes from a server."""
    secret = None if spec.auth is None else spec.auth.secret
    return DiskSource(
        type="network",
        protocol=spec.protocol,
        name=spec.name,
        servers=tuple(ServerAddress(name=host.name, port=host.port) for host in spec.hosts)
        or (ServerAddress(socket=spec.socket),),
        initiator=spec.initiator,
        username=None if spec.auth is None else spec.auth.username,
        secret_usage=None if secret is None else secret.usage,
        secret_uuid=None if secret is None else secret.uuid,
    )
