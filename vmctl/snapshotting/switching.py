"""A machine's definition with other files underneath it. Pure: XML in, XML out."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

from lxml import etree

from vmctl.hypervisor.metadata import NAMESPACE, Phase, Record
from vmctl.hypervisor.snapshots import SnapshotDetails

__all__ = [
    "as_it_was",
    "is_own",
    "led",
    "merged",
    "record_in",
    "switched",
    "with_passwords_of",
    "with_record",
]

_METADATA = f"metadata/{{{NAMESPACE}}}machine"
# Of a spec, what a snapshot does not hold.
_NO_DEVICES = ("name", "labels", "autostart")


def record_in(root: etree._Element) -> Record | None:
    """Return vmctl's record in a machine's XML; None where there is none, or another machine's.

    Raises:
        ValueError: It can't be read.
    """
    node = root.find(_METADATA)
    if node is None:
        return None
    record = Record.from_xml(etree.tostring(node, encoding="unicode"))
    return record if record.uuid == root.findtext("uuid") else None


def is_own(details: SnapshotDetails) -> bool:
    """Return whether vmctl took a snapshot: that this is done stands in the record within."""
    try:
        then = record_in(details.definition)
    except ValueError:
        return False
    work = None if then is None else then.work
    if work is None or work.snapshot != details.facts.name:
        return False
    # A revert to it writes down another one.
    return work.own if work.restored else True


def as_it_was(record: Record) -> Record:
    """Return the record of a machine as it is when the work on it has ended."""
    return replace(record, phase=record.before or Phase.READY, before=None, claim=None, work=None)


def merged(now: Record, then: Record | None) -> Record:
    """Return the record of a machine that goes back to a snapshot.

    What vmctl knows now is newer, but for the devices, which are those of that time again. What is
    no device is as it is now.
    """
    if then is None:
        return now
    kept = {name: now.spec[name] for name in _NO_DEVICES if name in now.spec}
    return replace(
        now,
        spec={**then.spec, **kept},
        volumes=tuple(dict.fromkeys((*now.volumes, *then.volumes))),
        bases=tuple(dict.fromkeys((*now.bases, *then.bases))),
    )


def with_record(root: etree._Element, record: Record) -> etree._Element:
    """Return a machine's XML with another record in it."""
    root = deepcopy(root)
    for node in root.findall(_METADATA):
        parent = node.getparent()
        if parent is not None:
            parent.remove(node)
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.SubElement(root, "metadata")
    metadata.append(etree.fromstring(record.to_xml()))
    return root


def switched(
    root: etree._Element,
    *,
    name: str,
    sources: Mapping[str, str],
    variables: str | None,
    record: Record,
) -> etree._Element:
    """Return a machine's XML in which its disks lie in other files.

    Args:
        root: The XML, of a running machine or of its next start.
        name: The machine's name.
        sources: The path of a qcow2 file by the disk's target; what is not in it stays as it is.
        variables: The path of UEFI's variables; None: as they are.
        record: What vmctl knows of it.
    """
    root = with_record(root, record)
    _set_text(root, "name", name)
    for node in root.findall("devices/disk"):
        # What was underneath is read from the files anew.
        for below in (*node.findall("backingStore"), *node.findall("mirror")):
            node.remove(below)
        target = node.find("target")
        path = sources.get("" if target is None else target.get("dev", ""))
        if path is not None:
            _lay_on(node, path)
    if variables is not None and root.find("os/nvram") is not None:
        _set_text(root, "os/nvram", variables)
    return root


def led(root: etree._Element, *, top: str, base: str, form: str) -> etree._Element:
    """Return a snapshot's XML that names a file in the place of one that was merged into it.

    Both the machine that ran and the definition of its next start are in it.

    Args:
        root: The XML, a ``domainsnapshot``.
        top: The path of the layer that was merged.
        base: The path of the file that it was merged into.
        form: How that is written: ``qcow2`` or ``raw``.
    """
    root = deepcopy(root)
    for disk in root.findall(".//disk"):
        source, driver = disk.find("source"), disk.find("driver")
        if source is None or source.get("file") != top:
            continue
        source.set("file", base)
        if driver is not None:
            driver.set("type", form)
        for below in disk.findall("backingStore"):
            disk.remove(below)
    return root


def _lay_on(disk: etree._Element, path: str) -> None:
    disk.set("type", "file")
    for source in disk.findall("source"):
        disk.remove(source)
    driver = disk.find("driver")
    if driver is None:
        driver = etree.Element("driver", name="qemu")
        disk.insert(0, driver)
    driver.set("type", "qcow2")
    source = etree.Element("source", file=path)
    driver.addnext(source)


def _set_text(root: etree._Element, path: str, text: str) -> None:
    node = root.find(path)
    if node is not None:
        node.text = text


def with_passwords_of(root: etree._Element, other: etree._Element) -> etree._Element:
    """Return a machine's XML without secrets with those of another XML of the same machine.

    Args:
        root: It; a display's password is not in it.
        other: One that has them.
    """
    root = deepcopy(root)
    secrets = {node.get("type"): node for node in other.findall("devices/graphics")}
    for node in root.findall("devices/graphics"):
        source = secrets.get(node.get("type"))
        for key in ("passwd", "passwdValidTo", "connected"):
            if source is not None and node.get(key) is None and source.get(key) is not None:
                node.set(key, source.get(key, ""))
    return root
