"""The definition of a clone: all that names its source is another, and all else as it was."""

from __future__ import annotations

import pytest
import yaml
from lxml import etree

from vmctl.errors import UnsupportedError, UsageError
from vmctl.render.clone import CloneIdentity, clone_definition
from vmctl.render.first_boot import has_first_boot, without_first_boot
from vmctl.render.identity import machine_id_of, with_macs
from vmctl.render.seed import SeedIdentity
from vmctl.render.seed_clone import render_clone_seed
from vmctl.spec import VMSpec

WAS = "8d4a2b3c-1111-4222-8333-444455556666"
NEW = "99999999-1111-4222-8333-444455556666"
OLD_MAC, NEW_MAC = "52:54:00:aa:bb:cc", "52:54:00:11:22:33"
IDENTITY = CloneIdentity(
    name="second",
    uuid=NEW,
    record="<r:machine xmlns:r='urn:r' uuid='new'/>",
    namespace="urn:r",
    macs={OLD_MAC: NEW_MAC},
    paths={"/p/first.qcow2": "/p/second.qcow2", "/p/first.log": "/p/second.log"},
    formats={"vda": "qcow2"},
)


def definition(devices: str = "", rest: str = "") -> str:
    return f"""<domain type='kvm'>
  <name>first</name><uuid>{WAS}</uuid><title>the first</title>
  <metadata><r:machine xmlns:r='urn:r' uuid='old'/><o:os xmlns:o='urn:o' id='debian'/></metadata>
  {rest}
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/><source file='/p/first.qcow2'/>
      <backingStore type='file'><format type='qcow2'/><source file='/p/base'/></backingStore>
      <target dev='vda' bus='virtio'/>
      <address type='pci' bus='0x03' slot='0x00'/>
    </disk>
    <interface type='network'>
      <mac address='{OLD_MAC.upper()}'/><source network='default'/><target dev='mine0'/>
      <filterref filter='clean'><parameter name='IP' value='192.0.2.1'/></filterref>
    </interface>
    <serial type='pty'><source path='/dev/pts/3'/><log file='/p/first.log' append='on'/></serial>
    {devices}
  </devices>
</domain>"""


def clone(devices: str = "", rest: str = "") -> tuple[etree._Element, tuple[str, ...]]:
    text, notes = clone_definition(definition(devices, rest), IDENTITY)
    return etree.fromstring(text), notes


def test_identity_is_replaced_and_the_rest_stays() -> None:
    root, notes = clone()
    assert notes == ()
    assert (root.findtext("name"), root.findtext("uuid")) == ("second", NEW)
    assert root.findtext("title") == "the first"
    assert [node.get("uuid") or node.get("id") for node in root.find("metadata")] == [  # type: ignore[union-attr]
        "debian",
        "new",
    ]
    (disk,) = root.findall("devices/disk")
    assert disk.find("backingStore") is None
    assert [dict(node.attrib) for node in disk] == [
        {"name": "qemu", "type": "qcow2", "cache": "none"},
        {"file": "/p/second.qcow2"},
        {"dev": "vda", "bus": "virtio"},
        {"type": "pci", "bus": "0x03", "slot": "0x00"},
    ]
    (nic,) = root.findall("devices/interface")
    assert [node.tag for node in nic.iter(etree.Element)][1:] == ["mac", "source", "filterref"]
    assert nic.find("mac").get("address") == NEW_MAC  # type: ignore[union-attr]
    (serial,) = root.findall("devices/serial")
    assert [dict(node.attrib) for node in serial] == [{"file": "/p/second.log", "append": "on"}]


def test_a_nic_that_no_record_knows_gets_an_address_too() -> None:
    root, _ = clone("<interface type='user'><mac address='52:54:00:00:00:07'/></interface>")
    macs = [mac.get("address") for mac in root.findall("devices/interface/mac")]
    assert macs[0] == NEW_MAC
    assert macs[1] not in {None, "52:54:00:00:00:07", NEW_MAC}


@pytest.mark.parametrize(
    ("devices", "gone", "note"),
    [
        ("<hostdev type='pci' mode='subsystem'/>", "devices/hostdev", "pci device of the host"),
        ("<interface type='hostdev'/>", "devices/interface[@type='hostdev']", "network device"),
        (
            "<tpm model='tpm-tis'><backend type='passthrough'/></tpm>",
            "devices/tpm",
            "the host's TPM",
        ),
        ("<graphics type='vnc' port='5907' autoport='no'/>", "devices/graphics[@port]", "5907"),
        (
            "<serial type='tcp'><source mode='bind' host='::1' service='7'/></serial>",
            "devices/serial[@type='tcp']",
            "serial port is a terminal",
        ),
    ],
)
def test_what_one_machine_has_at_a_time(devices: str, gone: str, note: str) -> None:
    root, notes = clone(devices)
    assert root.findall(gone) == []
    assert len(notes) == 1
    assert note in notes[0]


def test_what_libvirt_chooses_is_left_to_it() -> None:
    root, notes = clone(
        "<graphics type='vnc' port='-1' autoport='yes' passwd='x'/>"
        "<channel type='unix'><source mode='bind' path='/mine'/><target name='a'/></channel>"
        "<vsock><cid auto='no' address='7'/></vsock>",
        rest="<genid>11111111-1111-4222-8333-444455556666</genid>"
        f"<sysinfo type='smbios'><system><entry name='uuid'>{WAS}</entry></system></sysinfo>",
    )
    assert notes == ()
    assert root.find("devices/graphics").attrib == {  # type: ignore[union-attr]
        "type": "vnc",
        "autoport": "yes",
        "passwd": "x",
    }
    assert root.find("devices/channel/source") is None
    assert root.find("devices/vsock/cid").attrib == {"auto": "yes"}  # type: ignore[union-attr]
    assert root.findtext("genid") == ""
    assert root.find("sysinfo/system/entry") is None


def test_a_tpm_is_new_and_said_to_be() -> None:
    root, notes = clone("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>")
    assert root.find("devices/tpm") is not None
    assert "TPM is a new one" in notes[0]


@pytest.mark.parametrize(
    "left",
    [
        "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
        "<qemu:arg value='file=/p/first.qcow2,x=y'/></qemu:commandline>",
        f"<sysinfo type='smbios'><system><entry name='serial'>{WAS}</entry></system></sysinfo>",
        f"<os><cmdline>net={OLD_MAC}</cmdline></os>",
    ],
)
def test_what_still_names_the_source_is_refused(left: str) -> None:
    with pytest.raises(UnsupportedError, match="which a clone can't have too"):
        clone(rest=left)


@pytest.mark.parametrize(
    "devices",
    [
        "<disk device='disk'><source><encryption format='luks'/></source></disk>",
        "<memory model='nvdimm'><source><path>/n</path></source></memory>",
    ],
)
def test_what_can_not_be_copied_is_refused(devices: str) -> None:
    with pytest.raises(UnsupportedError):
        clone(devices)


def test_a_copied_device_is_a_file() -> None:
    text = definition().replace("type='file' device", "type='block' device")
    text = text.replace("<source file='/p/first.qcow2'/>", "<source dev='/dev/vg/first'/>")
    identity = CloneIdentity(
        name="second",
        uuid=NEW,
        macs=IDENTITY.macs,
        paths={"/dev/vg/first": "/p/second.raw"},
        formats={"vda": "raw"},
    )
    root = etree.fromstring(clone_definition(text, identity)[0])
    disk = root.find("devices/disk")
    assert disk is not None
    assert disk.get("type") == "file"
    assert disk.find("source").attrib == {"file": "/p/second.raw"}  # type: ignore[union-attr]
    assert disk.find("driver").get("type") == "raw"  # type: ignore[union-attr]


def test_seed_and_nvram_are_put_in_their_places() -> None:
    drive = "<disk type='file' device='cdrom'><target dev='sda' bus='scsi'/><readonly/></disk>"
    rest = "<os><nvram template='/t'>/p/first.nvram</nvram></os>"
    identity = CloneIdentity(
        name="second",
        uuid=NEW,
        macs=IDENTITY.macs,
        paths=IDENTITY.paths,
        nvram="/p/second.nvram",
        seed=("sda", "/p/seed.iso"),
    )
    root = etree.fromstring(clone_definition(definition(drive, rest), identity)[0])
    assert root.findtext("os/nvram") == "/p/second.nvram"
    drives = root.findall("devices/disk[@device='cdrom']/source")
    assert [source.get("file") for source in drives] == ["/p/seed.iso"]


def test_seed_says_who_the_guest_is_and_nothing_that_was_done_before() -> None:
    spec = VMSpec(
        name="Second_1",
        nics=[{"network": "default"}],
        cloud_init={
            "users": [{"name": "admin", "sudo": "ALL"}],
            "packages": ["nginx"],
            "runcmd": ["mkfs /dev/vdb"],
            "ssh_pwauth": True,
        },
    )
    identity = SeedIdentity(
        instance_id=NEW,
        host_key_private="PRIVATE",
        host_key_public="ssh-ed25519 AAAA",
        authorized_keys=("ssh-ed25519 BBBB",),
    )
    files = render_clone_seed(with_macs(spec, NEW), identity, user="admin", uuid=NEW)
    user = yaml.safe_load(files["user-data"])
    assert user["hostname"] == "second-1"
    assert user["users"] == [
        {"name": "admin", "lock_passwd": False, "ssh_authorized_keys": ["ssh-ed25519 BBBB"]}
    ]
    assert "packages" not in user
    assert "ssh_pwauth" not in user
    assert "mkfs" not in str(user)
    written = {file["path"]: file["content"] for file in user["write_files"]}
    assert written["/etc/machine-id"] == f"{machine_id_of(NEW)}\n" == f"{NEW.replace('-', '')}\n"
    assert yaml.safe_load(files["meta-data"])["instance-id"] == NEW
    assert "dhcp-identifier" in files["network-config"].decode()


def test_no_seed_without_cloud_init() -> None:
    identity = SeedIdentity(instance_id=NEW, host_key_private="", host_key_public="")
    with pytest.raises(UsageError, match="no cloud_init"):
        render_clone_seed(VMSpec(name="a", nics=[]), identity, user="a", uuid=NEW)


def test_the_machine_id_is_told_for_one_boot() -> None:
    drive = "<disk type='file' device='cdrom'><target dev='sda' bus='scsi'/><readonly/></disk>"
    identity = CloneIdentity(
        name="b", uuid=NEW, macs=IDENTITY.macs, paths=IDENTITY.paths, seed=("sda", "/p/seed.iso")
    )
    plain = "<os><type>hvm</type></os>"
    own = (
        "<sysinfo type='smbios'><oemStrings><entry>mine</entry></oemStrings></sysinfo>"
        "<os><type>hvm</type><smbios mode='sysinfo'/></os>"
    )
    for rest, left in ((plain, []), (own, ["mine"])):
        root = etree.fromstring(clone_definition(definition(drive, rest), identity)[0])
        assert has_first_boot(root)
        entries = root.findall("sysinfo/oemStrings/entry")
        assert [entry.text for entry in entries][:-1] == left
        assert str(entries[-1].text).endswith(f" {machine_id_of(NEW)}")
        assert root.find("os/smbios[@mode='sysinfo']") is not None
        # A clone of it is told another one.
        again = CloneIdentity(name="c", uuid=WAS, macs={NEW_MAC: OLD_MAC})
        assert not has_first_boot(
            etree.fromstring(clone_definition(etree.tostring(root, encoding="unicode"), again)[0])
        )
        assert not has_first_boot(without_first_boot(root))
        assert [entry.text for entry in root.findall("sysinfo/oemStrings/entry")] == left
        assert (root.find("os/smbios") is None) is (left == [])


def test_a_guest_that_sees_the_host_s_tables_is_not_told() -> None:
    drive = "<disk type='file' device='cdrom'><target dev='sda' bus='scsi'/><readonly/></disk>"
    identity = CloneIdentity(name="b", uuid=NEW, macs=IDENTITY.macs, seed=("sda", "/p/seed.iso"))
    rest = "<os><smbios mode='host'/></os>"
    root = etree.fromstring(clone_definition(definition(drive, rest), identity)[0])
    assert not has_first_boot(root)
