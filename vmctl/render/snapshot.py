"""Snapshot XML (https://libvirt.org/formatsnapshot.html)."""

from __future__ import annotations

from lxml import etree

__all__ = ["render_snapshot"]


def render_snapshot(name: str, *, description: str = "") -> str:
    """Return the XML of an internal snapshot.

    Args:
        name: Its name.
        description: What a person wants to remember of it.
    """
    root = etree.Element("domainsnapshot")
    etree.SubElement(root, "name").text = name
    if description:
        etree.SubElement(root, "description").text = description
    return etree.tostring(root, encoding="unicode")
