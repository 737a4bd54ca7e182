"""A definition of another time, with the files, the name and the record of now."""

from __future__ import annotations

import pytest
from lxml import etree

from vmctl.hypervisor.metadata import OwnedVolume, Phase, Record, Role
from vmctl.snapshotting.switching import (
    led,
    merged,
    record_in,
    switched,
    with_passwords_of,
    with_record,
)

UUID = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"
NOW = Record(
    uuid=UUID,
    phase=Phase.REVERTING,
    created="now",
    spec={"name": "new", "labels": {"a": "b"}, "memory": 2, "disks": [1, 2]},
    volumes=(OwnedVolume(pool="default", name="b", role=Role.DISK),),
    bases=(("default", "sha256-2.qcow2"),),
)
THEN = Record(
    uuid=UUID,
    phase=Phase.SNAPSHOTTING,
    created="then",
    spec={"name": "old", "memory": 1, "disks": [1]},
    volumes=(OwnedVolume(pool="default", name="a", role=Role.DISK),),
    bases=(("default", "sha256-1.qcow2"),),
)
DOMAIN = f"""<domain type='kvm'>
  <name>old</name><uuid>{UUID}</uuid>
  <metadata><other xmlns='urn:other'/>{THEN.to_xml()}</metadata>
  <os><loader type='pflash'>/code</loader><nvram template='/t'>/old.nvram</nvram></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='/old.qcow2' index='2'><seclabel model='dac'/></source>
      <backingStore type='file'><format type='qcow2'/><source file='/base'/></backingStore>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/x'/>
      <target dev='vdb' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/cd.iso'/>
      <target dev='sda' bus='sata'/><readonly/></disk>
    <graphics type='vnc' passwd='secret' passwdValidTo='2030-01-01T00:00:00'/>
  </devices>
</domain>"""


def test_disks_lie_in_other_files_and_all_else_is_of_that_time() -> None:
    root = switched(
        etree.fromstring(DOMAIN),
        name="new",
        sources={"vda": "/new-a.qcow2", "vdb": "/new-b.qcow2"},
        variables="/new.nvram",
        record=NOW,
    )
    assert root.findtext("name") == "new"
    nvram = root.find("os/nvram")
    assert nvram is not None
    assert (nvram.text, nvram.get("template")) == ("/new.nvram", "/t")
    first, second, drive = root.findall("devices/disk")
    assert [child.tag for child in first] == ["driver", "source", "target"]
    assert [dict(node.attrib) for node in first.findall("source")] == [{"file": "/new-a.qcow2"}]
    assert len(first.findall("source/*")) == 0
    assert first.find("driver[@type='qcow2'][@discard='unmap']") is not None
    assert second.get("type") == "file"
    assert [dict(node.attrib) for node in second.findall("source")] == [{"file": "/new-b.qcow2"}]
    assert [node.get("type") for node in second.findall("driver")] == ["qcow2"]
    assert [node.get("file") for node in drive.findall("source")] == ["/cd.iso"]
    assert record_in(root) == NOW
    assert root.find("metadata/{urn:other}other") is not None


def test_what_was_given_is_not_changed() -> None:
    root = etree.fromstring(DOMAIN)
    before = etree.tostring(root)
    switched(root, name="x", sources={"vda": "/y"}, variables="/z", record=NOW)
    with_record(root, NOW)
    assert etree.tostring(root) == before


def test_the_record_has_the_devices_of_then_and_the_name_of_now() -> None:
    record = merged(NOW, THEN)
    assert record.spec == {"name": "new", "labels": {"a": "b"}, "memory": 1, "disks": [1]}
    assert (record.phase, record.created) == (Phase.REVERTING, "now")
    assert [volume.name for volume in record.volumes] == ["b", "a"]
    assert [name for _pool, name in record.bases] == ["sha256-2.qcow2", "sha256-1.qcow2"]
    assert merged(NOW, None) == NOW


def test_another_machines_record_is_none() -> None:
    root = etree.fromstring(DOMAIN)
    assert record_in(root) == THEN
    uuid = root.find("uuid")
    assert uuid is not None
    uuid.text = "another"
    assert record_in(root) is None
    assert record_in(etree.fromstring("<domain/>")) is None


def test_a_machine_without_metadata_gets_a_record() -> None:
    root = with_record(etree.fromstring(f"<domain><uuid>{UUID}</uuid></domain>"), NOW)
    assert record_in(root) == NOW


@pytest.mark.parametrize("own", ["", " passwd='own'"])
def test_passwords_come_from_the_machines_other_definition(own: str) -> None:
    root = etree.fromstring(
        f"<domain><devices><graphics type='vnc'{own}/><graphics type='spice'/></devices></domain>"
    )
    vnc, spice = with_passwords_of(root, etree.fromstring(DOMAIN)).findall("devices/graphics")
    assert vnc.get("passwd") == ("own" if own else "secret")
    assert spice.get("passwd") is None


def test_a_merged_layer_is_replaced_in_the_machine_and_in_its_next_start() -> None:
    disk = """<disk type='file'><driver type='qcow2'/><source file='{}'/>
      <backingStore><format type='raw'/><source file='/base'/><backingStore/></backingStore>
      <target dev='{}'/></disk>"""
    devices = f"<devices>{disk.format('/top', 'vda')}{disk.format('/other', 'vdb')}</devices>"
    given = etree.fromstring(
        f"<domainsnapshot><domain>{devices}</domain>"
        f"<inactiveDomain>{devices}</inactiveDomain></domainsnapshot>"
    )
    root = led(given, top="/top", base="/base", form="raw")
    for tag in ("domain", "inactiveDomain"):
        first, second = root.findall(f"{tag}/devices/disk")
        assert first.find("source").get("file") == "/base"  # type: ignore[union-attr]
        assert first.find("driver").get("type") == "raw"  # type: ignore[union-attr]
        assert first.find("backingStore") is None
        assert second.find("source").get("file") == "/other"  # type: ignore[union-attr]
        assert second.find("backingStore") is not None
    # What was given is not changed.
    assert given.find("domain//source").get("file") == "/top"  # type: ignore[union-attr]
