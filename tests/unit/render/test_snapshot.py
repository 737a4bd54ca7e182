"""The XML of snapshots: what a person typed can change a value, and never the structure."""

from __future__ import annotations

from lxml import etree

from vmctl.render.snapshot import render_external_snapshot, render_snapshot


def test_an_internal_one_says_nothing_of_disks() -> None:
    root = etree.fromstring(render_snapshot("a", description="<b>&"))
    assert [(node.tag, node.text) for node in root] == [("name", "a"), ("description", "<b>&")]
    assert [node.tag for node in etree.fromstring(render_snapshot("a"))] == ["name"]


def test_an_external_one_names_every_disk() -> None:
    text = render_external_snapshot(
        "a", overlays={"vda": "/pool/x'<.qcow2", "sda": None}, memory="/pool/m", description="d"
    )
    root = etree.fromstring(text)
    assert [node.items() for node in root.findall("memory")] == [
        [("snapshot", "external"), ("file", "/pool/m")]
    ]
    frozen, left_out = root.findall("disks/disk")
    assert frozen.items() == [("name", "vda"), ("snapshot", "external"), ("type", "file")]
    assert [node.items() for node in frozen] == [
        [("type", "qcow2")],
        [("file", "/pool/x'<.qcow2")],
    ]
    assert left_out.items() == [("name", "sda"), ("snapshot", "no")]


def test_without_memory_libvirt_is_told_so() -> None:
    root = etree.fromstring(render_external_snapshot("a", overlays={"vda": "/x"}, memory=None))
    assert [node.items() for node in root.findall("memory")] == [[("snapshot", "no")]]
