"""XML of backups and checkpoints (https://libvirt.org/formatbackup.html, formatcheckpoint.html)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lxml import etree

__all__ = ["render_backup", "render_checkpoint"]


def render_backup(
    files: Mapping[str, str], *, since: str = "", formats: Mapping[str, str] | None = None
) -> str:
    """Return the XML of a backup that QEMU writes into files of the host's.

    Args:
        files: For each disk by its target, the file that it is written into; disks that are not
            named are left out.
        since: The checkpoint since which changes are written; empty for all of the disks.
        formats: How the files are written, by the disks' targets; qcow2 where it is not said.
    """
    formats = formats or {}
    root = etree.Element("domainbackup", mode="push")
    if since:
        etree.SubElement(root, "incremental").text = since
    disks = etree.SubElement(root, "disks")
    for target, path in files.items():
        disk = etree.SubElement(disks, "disk", name=target, backup="yes", type="file")
        etree.SubElement(disk, "driver", type=formats.get(target, "qcow2"))
        etree.SubElement(disk, "target", file=path)
    return etree.tostring(root, encoding="unicode")


def render_checkpoint(name: str, targets: Iterable[str]) -> str:
    """Return the XML of a checkpoint, from which on disks keep track of what is changed.

    Args:
        name: Its name.
        targets: The disks; others keep no track.
    """
    root = etree.Element("domaincheckpoint")
    etree.SubElement(root, "name").text = name
    disks = etree.SubElement(root, "disks")
    for target in targets:
        etree.SubElement(disks, "disk", name=target, checkpoint="bitmap")
    return etree.tostring(root, encoding="unicode")
