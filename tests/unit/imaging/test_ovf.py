"""OVF descriptors: samples in the style of VirtualBox and VMware, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from vmctl.errors import ImageError
from vmctl.imaging.ovf import parse_ovf
from vmctl.imaging.ovf_spec import machine_name, map_appliance
from vmctl.imaging.ovf_writing import ExportedDisk, describe_machine
from vmctl.spec import DiskBus, VMSpec

SAMPLES = Path(__file__).parent / "samples"
VIRTUALBOX = (SAMPLES / "virtualbox.ovf").read_text()
VMWARE = (SAMPLES / "vmware.ovf").read_text()


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.ovf")), ids=lambda path: path.stem)
def test_a_sample_becomes_its_spec(path: Path) -> None:
    mapped = map_appliance(parse_ovf(path.read_bytes(), source=path.name))
    wanted = yaml.safe_load(path.with_suffix(".yaml").read_text())
    assert yaml.safe_load(mapped.spec.to_yaml()) == wanted["spec"]
    assert list(mapped.warnings) == wanted["warnings"]


def test_what_virtualbox_says() -> None:
    found = parse_ovf(VIRTUALBOX.encode(), source="x")
    # By their places on the controller, not in the order of the document.
    assert [disk.file for disk in found.disks] == ["shop-disk001.vmdk", "shop-disk002.vmdk"]
    assert (found.vcpus, found.memory, found.uefi) == (2, 2 << 30, True)
    assert found.nics[0].mac == "08:00:27:1a:2b:3c"


def test_what_vmware_says() -> None:
    found = parse_ovf(VMWARE.encode(), source="x")
    assert [disk.capacity for disk in found.disks] == [16 << 30, 4 << 30]
    assert [disk.file for disk in found.disks] == ["db01-1.vmdk", ""]
    assert found.disks[0].file_size == 68608
    assert (found.secure_boot, found.disks[0].controller) == (True, "lsilogicsas")


def test_a_machine_that_was_described_reads_as_itself() -> None:
    spec = VMSpec.model_validate(
        {
            "name": "own",
            "machine": "pc",
            "vcpus": 3,
            "memory": "768MiB",
            "firmware": "uefi",
            "disks": [{"size": "1GiB", "bus": "ide"}, {"size": "2GiB"}],
            "nics": [{"network": "default", "model": "e1000e", "mac": "52:54:00:01:02:03"}],
            "cdroms": [{"bus": "ide"}],
        }
    ).resolved()
    disks = [
        ExportedDisk(name="own-0.vmdk", size=70, virtual_size=1 << 30, bus=DiskBus.IDE),
        ExportedDisk(name="own-1.vmdk", size=80, virtual_size=2 << 30, bus=DiskBus.VIRTIO),
    ]
    found = parse_ovf(describe_machine(spec, disks), source="x")
    assert [(d.file, d.file_size, d.capacity, d.bus) for d in found.disks] == [
        ("own-0.vmdk", 70, 1 << 30, "ide"),
        ("own-1.vmdk", 80, 2 << 30, "sata"),
    ]
    mapped = map_appliance(found)
    assert (mapped.spec.name, mapped.spec.vcpus, int(mapped.spec.memory)) == ("own", 3, 768 << 20)
    assert mapped.spec.firmware.type == "uefi"
    assert mapped.spec.nics[0].mac == "52:54:00:01:02:03"
    assert mapped.spec.nics[0].model == "e1000e"
    assert len(mapped.spec.cdroms) == 1


BAD = {
    "not XML": ("nonsense", "is not XML"),
    "another document": ("<html/>", "no OVF envelope"),
    "a DTD": (
        VIRTUALBOX.replace(
            '<?xml version="1.0"?>', '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
        ),
        "has a DTD",
    ),
    "a path": (VIRTUALBOX.replace("shop-disk001", "../shop-disk001"), "not one beside it"),
    "an absolute path": (VIRTUALBOX.replace("shop-disk001", "/etc/shop"), "not one beside it"),
    "a URL": (VIRTUALBOX.replace("shop-disk001", "http://a/b"), "not one beside it"),
    "one file in two disks": (VIRTUALBOX.replace("shop-disk002", "shop-disk001"), "in two disks"),
    "a disk in two drives": (VIRTUALBOX.replace(">/disk/vmdisk2", ">/disk/vmdisk1"), "two drives"),
    "an unlisted disk": (VIRTUALBOX.replace(">/disk/vmdisk2", ">/disk/other"), "doesn't list"),
    "an unlisted file": (VIRTUALBOX.replace('fileRef="file2"', 'fileRef="f9"'), "doesn't list"),
    "one id for two disks": (VIRTUALBOX.replace('"vmdisk2"', '"vmdisk1"'), "two disks of one id"),
    "an absurd capacity": (VIRTUALBOX.replace("10737418240", "9223372036854775807"), "claims"),
    "no capacity": (VIRTUALBOX.replace("10737418240", "0"), "claims a disk of 0"),
    "a negative capacity": (VIRTUALBOX.replace("10737418240", "-5"), "has '-5'"),
    "an absurd memory": (VIRTUALBOX.replace(">2048<", f">{1 << 60}<"), "for the memory"),
    "an absurd processor": (VIRTUALBOX.replace(">2<", ">5000<"), "for a quantity"),
    "an unknown unit": (VIRTUALBOX.replace(">MegaBytes<", ">Elephants<"), "units of 'elephants'"),
    "chunks": (VMWARE.replace('ovf:size="68608"', 'ovf:chunkSize="1000"'), "cut into chunks"),
    "an unknown packer": (VMWARE.replace("ovf:size=", "ovf:compression="), "compressed by"),
    "a parent disk": (VMWARE.replace("ovf:populatedSize=", "ovf:parentRef="), "on top of another"),
    "no machine": (re.sub("VirtualSystem([ >])", r"Virtual\1", VIRTUALBOX), "no machine"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_descriptors_are_refused(case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(ImageError, match="(?i)" + message) as caught:
        parse_ovf(text.encode(), source="'x.ovf'")
    assert caught.value.hint


def test_other_encodings_and_sizes_are_refused() -> None:
    with pytest.raises(ImageError, match="not text in UTF-8"):
        parse_ovf(VIRTUALBOX.encode("utf-16"), source="x")
    with pytest.raises(ImageError, match="larger than 4 MiB"):
        parse_ovf(b" " * (5 << 20), source="x")
    hidden = '<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE x><x/>'
    with pytest.raises(ImageError):
        parse_ovf(hidden.encode(), source="x")


def test_several_machines_are_refused() -> None:
    text = VMWARE.replace("VirtualSystem ", "VirtualSystemCollection ").replace(
        "VirtualSystem>", "VirtualSystemCollection>"
    )
    with pytest.raises(ImageError, match="several machines"):
        parse_ovf(text.encode(), source="x")


@pytest.mark.parametrize(
    ("text", "name"),
    [("web", "web"), ("My VM (copy)", "My-VM-copy"), ("a..b", "a.b"), ("///", "imported")],
)
def test_machine_names(text: str, name: str) -> None:
    assert machine_name(text) == name
    assert VMSpec.model_validate({"name": name}).name == name
