"""What is rendered anew is carried over to a definition, and nothing else in it changes."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
from lxml import etree

from vmctl.render.patching import patch

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
IDENTITY = re.compile(r"<uuid>.*?</uuid>|<name>.*?</name>|<metadata>.*?</metadata>", re.DOTALL)
# One of everything would take a minute; these have devices of all kinds in all numbers.
STEP = 3


def domains() -> list[str]:
    texts = [path.read_text() for path in sorted(GOLDEN.glob("*.xml"))]
    return [IDENTITY.sub("", text) for text in texts if "<domain " in text]


def canonical(text: str) -> object:
    """Return a document as what it says: only the order of boot devices matters in it."""

    def of(node: etree._Element) -> object:
        inner = [child for child in node if isinstance(child.tag, str)]
        free = sorted(repr(of(child)) for child in inner if child.tag != "boot")
        ordered = [of(child) for child in inner if child.tag == "boot"]
        attributes = sorted((str(key), str(value)) for key, value in node.attrib.items())
        return (node.tag, attributes, (node.text or "").strip(), free, ordered)

    return of(etree.fromstring(text))


@pytest.mark.parametrize("number", range(STEP))
def test_any_machine_becomes_any_other(number: int) -> None:
    everything = domains()
    assert len(everything) > 30
    for old, new in product(everything[number::STEP], everything[::STEP]):
        assert canonical(patch(old, old, new)) == canonical(new)


def test_what_is_not_rendered_stays() -> None:
    old = """<domain type='qemu'><vcpu>1</vcpu><cpu mode='maximum'/><devices>
      <disk type='file' device='disk'><target dev='vda' bus='virtio'/></disk></devices></domain>"""
    new = old.replace("<vcpu>1<", "<vcpu>3<").replace(
        "bus='virtio'/>", "bus='virtio'/><serial>a</serial>"
    )
    actual = """<domain type='qemu'><title>mine</title><vcpu placement='static'>1</vcpu>
      <cpu mode='maximum' migratable='on'><topology sockets='1'/></cpu><devices>
      <disk type='file' device='disk'><target dev='vda' bus='virtio'/><boot order='7'/>
        <address type='pci' slot='0x05'/></disk>
      <hostdev mode='subsystem' type='usb'/></devices></domain>"""
    root = etree.fromstring(patch(actual, old, new))
    assert root.findtext("title") == "mine"
    assert root.findtext("vcpu") == "3"
    vcpu = root.find("vcpu")
    assert vcpu is not None
    assert vcpu.get("placement") == "static"
    assert root.find("cpu[@migratable='on']/topology") is not None
    assert root.findtext("devices/disk/serial") == "a"
    assert root.find("devices/disk/boot[@order='7']") is not None
    assert root.find("devices/disk/address[@slot='0x05']") is not None
    assert root.find("devices/hostdev") is not None


def test_a_device_of_another_kind_leaves_its_address() -> None:
    old = "<domain><devices><disk><target dev='vda' bus='virtio'/></disk></devices></domain>"
    new = old.replace("bus='virtio'", "bus='usb'")
    actual = old.replace("</disk>", "<alias name='virtio-disk0'/><address type='pci'/></disk>")
    root = etree.fromstring(patch(actual, old, new))
    assert root.find("devices/disk/target[@bus='usb']") is not None
    assert root.find("devices/disk/address") is None
    assert root.find("devices/disk/alias") is None


def test_what_somebody_took_away_comes_back_only_if_it_changed() -> None:
    old = "<domain><devices><sound model='ac97'/><rng model='virtio'/></devices></domain>"
    actual = "<domain><devices/></domain>"
    root = etree.fromstring(patch(actual, old, old.replace("ac97", "ich6")))
    assert [node.tag for node in root.iterfind("devices/*")] == ["sound"]


def test_the_identity_of_a_machine_is_not_touched() -> None:
    old = "<domain><name>a</name><uuid>1</uuid><metadata><x/></metadata></domain>"
    new = "<domain><name>b</name><uuid>2</uuid><metadata><y/></metadata></domain>"
    assert canonical(patch(old, old, new)) == canonical(old)


def test_entries_of_others_stay_where_vmctl_has_none() -> None:
    def network(*hosts: str) -> str:
        inner = "".join(f"<host ip='{host}'><hostname>h</hostname></host>" for host in hosts)
        return f"<network><dns>{inner}</dns></network>" if hosts else "<network/>"

    def hosts(xml: str) -> list[str]:
        return [node.get("ip", "") for node in etree.fromstring(xml).iterfind("dns/host")]

    both = patch(network("192.0.2.7"), network(), network("192.0.2.8"))
    assert hosts(both) == ["192.0.2.7", "192.0.2.8"]
    assert hosts(patch(both, network("192.0.2.8"), network())) == ["192.0.2.7"]
    alone = patch(network("192.0.2.8"), network("192.0.2.8"), network())
    assert etree.fromstring(alone).find("dns") is None
