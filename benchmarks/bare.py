"""What a script without vmctl does to make the same machine, for comparison."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

import vmctl
from vmctl.render.volume import render_volume


@dataclass(frozen=True)
class Bare:
    """The pieces of a machine as vmctl makes it, to make the same by libvirt's calls alone.

    Attributes:
        raw: libvirt's own connection.
        xml: The domain's XML, with places for ``{name}``, ``{disk}`` and ``{seed}``.
        base: The image's path on the host.
        seed: The seed's bytes.
        capacity: What the guest sees of its disk, in bytes.
    """

    raw: Any
    xml: str
    base: str
    seed: bytes
    capacity: int

    @classmethod
    def like(cls, host: vmctl.Host, spec: vmctl.VMSpec) -> Bare:
        """Make a machine, look at it, and delete it again."""
        raw = host._connection.raw
        example = host.create(spec)
        xml, disk, seed = _as_template(example.xml(inactive=True))
        overlay = raw.storageVolLookupByPath(disk)
        backing = etree.fromstring(overlay.XMLDesc()).findtext("backingStore/path")
        content = bytearray()
        stream = raw.newStream()
        raw.storageVolLookupByPath(seed).download(stream, 0, 0)
        stream.recvAll(lambda _stream, data, into: into.extend(data), content)
        stream.finish()
        capacity = overlay.info()[1]
        example.delete()
        return cls(raw, xml, backing or "", bytes(content), capacity)

    def make(self, name: str, *, start: bool) -> None:
        """Make an overlay and a seed, define the machine, and start it if wanted.

        The seed is filled as late as vmctl does it, so this is the least that it can take.
        """
        pool = self.raw.storagePoolLookupByName("default")
        disk = pool.createXML(
            render_volume(
                f"{name}.qcow2", capacity=self.capacity, format="qcow2", backing_path=self.base
            )
        )
        seed = pool.createXML(render_volume(f"{name}.iso", capacity=len(self.seed), format="raw"))
        paths = {"disk": disk.path(), "seed": seed.path()}
        domain = self.raw.defineXMLFlags(
            self.xml.format(name=name, **paths), libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        )
        stream = self.raw.newStream()
        seed.upload(stream, 0, len(self.seed))
        stream.sendAll(lambda _stream, size, source: source.read(size), io.BytesIO(self.seed))
        stream.finish()
        if start:
            domain.create()

    def remove(self, name: str) -> None:
        """Take away what `make` made."""
        domain = self.raw.lookupByName(name)
        if domain.isActive():
            domain.destroy()
        domain.undefine()
        pool = self.raw.storagePoolLookupByName("default")
        for volume in (f"{name}.qcow2", f"{name}.iso"):
            pool.storageVolLookupByName(volume).delete()


def _as_template(xml: str) -> tuple[str, str, str]:
    """Return a machine's XML with places for name, disk and seed, and the paths of these two."""
    root = etree.fromstring(xml)
    for node in (*root.findall("uuid"), *root.findall("metadata"), *root.iter("log")):
        parent = node.getparent()
        if parent is not None:
            parent.remove(node)
    disk, seed = root.findall("devices/disk/source")
    paths = disk.get("file") or "", seed.get("file") or ""
    disk.set("file", "{disk}")
    seed.set("file", "{seed}")
    for node in root.findall("name"):
        node.text = "{name}"
    return etree.tostring(root, encoding="unicode"), *paths
