"""Volume XML (https://libvirt.org/formatstorage.html#storage-volume-xml)."""

from __future__ import annotations

from lxml import etree

__all__ = ["render_block_volume", "render_volume"]


def render_volume(
    name: str,
    *,
    capacity: int,
    format: str,  # noqa: A002 - libvirt's own word
    backing_path: str | None = None,
    backing_format: str = "qcow2",
    preallocate: bool = False,
) -> str:
    """Return the XML of a volume.

    Args:
        name: Its name in the pool.
        capacity: What the guest sees, in bytes.
        format: ``qcow2`` or ``raw``.
        backing_path: Path, on the host, of the image underneath; its format is always stated, never
            probed.
        backing_format: That image's format.
        preallocate: Whether all of its space is taken at once.
    """
    root = etree.Element("volume", type="file")
    etree.SubElement(root, "name").text = name
    etree.SubElement(root, "capacity", unit="bytes").text = str(int(capacity))
    allocation = str(int(capacity)) if preallocate else "0"
    etree.SubElement(root, "allocation", unit="bytes").text = allocation
    target = etree.SubElement(root, "target")
    etree.SubElement(target, "format", type=format)
    # Readable by nobody but the hypervisor: disks and seeds hold secrets.
    permissions = etree.SubElement(target, "permissions")
    etree.SubElement(permissions, "mode").text = "0600"
    if format == "qcow2":
        etree.SubElement(target, "compat").text = "1.1"
    if backing_path is not None:
        backing = etree.SubElement(root, "backingStore")
        etree.SubElement(backing, "path").text = backing_path
        etree.SubElement(backing, "format", type=backing_format)
    return etree.tostring(root, encoding="unicode")


def render_block_volume(name: str, *, capacity: int) -> str:
    """Return the XML of a volume that is a device: a logical volume, a zvol, an RBD image.

    Args:
        name: Its name in the pool.
        capacity: Its size in bytes.
    """
    root = etree.Element("volume")
    etree.SubElement(root, "name").text = name
    etree.SubElement(root, "capacity", unit="bytes").text = str(int(capacity))
    return etree.tostring(root, encoding="unicode")
