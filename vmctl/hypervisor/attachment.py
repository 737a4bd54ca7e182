"""How a guest gets at a volume: by a path on the host, or from the pool's own server."""

from __future__ import annotations

from lxml import etree

from vmctl.errors import UnsupportedError
from vmctl.hypervisor import pools
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling
from vmctl.hypervisor.volumes import VolumeFacts
from vmctl.render.sources import DiskSource, ServerAddress

__all__ = ["key_of", "source_of"]

_PROTOCOLS = {"iscsi-direct": "iscsi", "rbd": "rbd"}


def source_of(connection: Connection, volume: VolumeFacts) -> DiskSource:
    """Return what a disk on a volume is.

    Raises:
        UnsupportedError: A volume of that kind can't be a disk.
    """
    if volume.type == "file":
        return DiskSource(type="file", path=volume.path)
    if volume.type == "block":
        return DiskSource(type="block", path=volume.path)
    raw = pools.find(connection, volume.pool)
    with calling(f"ask for the pool '{volume.pool}'"):
        pool = etree.fromstring(raw.XMLDesc(0))
    protocol = _PROTOCOLS.get(pool.get("type", ""))
    source = pool.find("source")
    if volume.type != "network" or protocol is None or source is None:
        raise UnsupportedError(
            f"the volume '{volume.name}' in the pool '{volume.pool}' can't be a machine's disk",
            hint="disks lie on files, on devices, on iSCSI and on RBD",
        )
    return _from_server(protocol, source, volume.name)


def key_of(connection: Connection, volume: VolumeFacts) -> str:
    """Return what tells a volume from others in what machines say of their disks."""
    if volume.type != "network":
        return volume.path
    try:
        return source_of(connection, volume).key
    except UnsupportedError:
        return volume.path


def _from_server(protocol: str, source: etree._Element, volume: str) -> DiskSource:
    if protocol == "iscsi":
        device = source.find("device")
        target = "" if device is None else device.get("path", "")
        # libvirt calls a LUN unit:HOST:BUS:LUN.
        name = f"{target}/{volume.rpartition(':')[2]}"
    else:
        name = f"{source.findtext('name')}/{volume}"
    auth, secret = source.find("auth"), source.find("auth/secret")
    initiator = source.find("initiator/iqn")
    return DiskSource(
        type="network",
        protocol=protocol,
        name=name,
        servers=tuple(
            ServerAddress(name=host.get("name"), port=int(host.get("port") or 0) or None)
            for host in source.findall("host")
        ),
        initiator=None if initiator is None else initiator.get("name"),
        username=None if auth is None else auth.get("username"),
        secret_usage=None if secret is None else secret.get("usage"),
        secret_uuid=None if secret is None else secret.get("uuid"),
    )
