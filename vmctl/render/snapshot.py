"""Snapshot XML (https://libvirt.org/formatsnapshot.html)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lxml import etree

__all__ = ["render_external_snapshot", "render_found_snapshot", "render_snapshot"]


def render_snapshot(name: str, *, description: str = "") -> str:
    """Return the XML of an internal snapshot.

    Args:
        name: Its name.
        description: What a person wants to remember of it.
    """
    return etree.tostring(_root(name, description), encoding="unicode")


def render_external_snapshot(
    name: str, *, overlays: Mapping[str, str | None], memory: str | None, description: str = ""
) -> str:
    """Return the XML of an external snapshot.

    Args:
        name: Its name.
        overlays: Of every disk and drive, by its target, the path of the qcow2 file that the
            machine goes on in; None for one that is left out.
        memory: The path of the file that the memory is written to; None: it is not in it.
        description: What a person wants to remember of it.
    """
    root = _root(name, description)
    if memory is None:
        etree.SubElement(root, "memory", snapshot="no")
    else:
        etree.SubElement(root, "memory", snapshot="external", file=memory)
    disks = etree.SubElement(root, "disks")
    for target, path in overlays.items():
        if path is None:
            etree.SubElement(disks, "disk", name=target, snapshot="no")
            continue
        disk = etree.SubElement(disks, "disk", name=target, snapshot="external", type="file")
        etree.SubElement(disk, "driver", type="qcow2")
        etree.SubElement(disk, "source", file=path)
    return etree.tostring(root, encoding="unicode")


def render_found_snapshot(name: str, *, targets: Iterable[str], definition: str) -> str:
    """Return the XML by which libvirt gets to know an internal snapshot that is in disks already.

    Args:
        name: Its name.
        targets: The disks that it is in.
        definition: The machine's definition, secrets and all; it is taken for one that was off.
    """
    root = _root(name, "")
    # It must have one, and nobody asks for it.
    etree.SubElement(root, "creationTime").text = "0"
    etree.SubElement(root, "state").text = "shutoff"
    etree.SubElement(root, "memory", snapshot="no")
    disks = etree.SubElement(root, "disks")
    machine = etree.fromstring(definition)
    within = frozenset(targets)
    for node in machine.findall("devices/disk/target"):
        target = node.get("dev", "")
        how = "internal" if target in within else "no"
        etree.SubElement(disks, "disk", name=target, snapshot=how)
    root.append(machine)
    return etree.tostring(root, encoding="unicode")


def _root(name: str, description: str) -> etree._Element:
    root = etree.Element("domainsnapshot")
    etree.SubElement(root, "name").text = name
    if description:
        etree.SubElement(root, "description").text = description
    return root
