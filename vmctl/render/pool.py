"""Storage pool XML (https://libvirt.org/formatstorage.html#storage-pool-xml)."""

from __future__ import annotations

from lxml import etree

from vmctl.spec.pool import PoolAuth, PoolSource, PoolSpec, PoolType

__all__ = ["render_pool"]

# What a pool makes of its volumes' folder: nobody but the hypervisor looks into it.
_FOLDER_MODE = "0711"
_FOLDERS = {PoolType.DIR, PoolType.FS, PoolType.NETFS}


def render_pool(spec: PoolSpec, *, uuid: str | None = None) -> str:
    """Return the XML of a pool. Passwords are not in it: it names libvirt's secrets.

    Args:
        spec: What is wanted.
        uuid: Its UUID; libvirt makes one up when it is not given.
    """
    root = etree.Element("pool", type=spec.type.value)
    etree.SubElement(root, "name").text = spec.name
    if uuid is not None:
        etree.SubElement(root, "uuid").text = uuid
    if spec.type is not PoolType.DIR:
        _add_source(root, spec.type, spec.source)
    if spec.target_path is not None:
        target = etree.SubElement(root, "target")
        etree.SubElement(target, "path").text = spec.target_path
        if spec.type in _FOLDERS:
            permissions = etree.SubElement(target, "permissions")
            etree.SubElement(permissions, "mode").text = _FOLDER_MODE
    etree.indent(root)
    return etree.tostring(root, encoding="unicode") + "\n"


def _add_source(root: etree._Element, kind: PoolType, source: PoolSource) -> None:
    node = etree.SubElement(root, "source")
    if source.name is not None:
        etree.SubElement(node, "name").text = source.name
    for host in source.hosts:
        port = {} if host.port is None else {"port": str(host.port)}
        etree.SubElement(node, "host", {"name": host.name, **port})
    for device in source.devices:
        etree.SubElement(node, "device", path=device)
    if source.dir is not None:
        etree.SubElement(node, "dir", path=source.dir)
    if source.initiator is not None:
        initiator = etree.SubElement(node, "initiator")
        etree.SubElement(initiator, "iqn", name=source.initiator)
    if source.auth is not None:
        _add_auth(node, "ceph" if kind is PoolType.RBD else "chap", source.auth)
    if source.format is not None:
        etree.SubElement(node, "format", type=source.format)


def _add_auth(node: etree._Element, kind: str, auth: PoolAuth) -> None:
    found = etree.SubElement(node, "auth", type=kind, username=auth.username)
    named = {"uuid": auth.secret.uuid, "usage": auth.secret.usage}
    etree.SubElement(found, "secret", {key: value for key, value in named.items() if value})
