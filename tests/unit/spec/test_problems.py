"""Everything that a spec can do wrong, and what is said about it."""

from __future__ import annotations

import pytest

from vmctl.errors import SpecError
from vmctl.spec import VMSpec

IDE5 = "profile: legacy\ndisks: [" + "{size: 1GiB}, " * 5 + "]"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGolden me"

# What is added to `name: vm`, the path of the problem, and a part of its message.
WRONG = [
    # names
    ("name: a/b", "name", "is not a machine's name"),
    ("name: a..b", "name", "no '..'"),
    ("name: a&b", "name", "letters, digits"),
    ("name: a<b", "name", "letters, digits"),
    ("name: -a", "name", "the first a letter or a digit"),
    ("name: ''", "name", "is not a machine's name"),
    (f"name: {'a' * 300}", "name", "1 to 63"),
    ("name: 12", "name", "12 is not text; put quotes around it"),
    ("name: true", "name", "put quotes around it"),
    ('name: "a\\n"', "name", "is not a machine's name"),
    # unknown fields
    ("vcpu: 2", "vcpu", "is not a field here; did you mean vcpus?"),
    ("cpus: 2", "cpus", "did you mean vcpus?"),
    ("ram: 2GiB", "ram", "did you mean memory?"),
    ("hostname: x", "hostname", "did you mean cloud_init.hostname?"),
    ("disks: [{sise: 1GiB}]", "disks[0].sise", "did you mean size?"),
    ("nics: [{netwrk: x}]", "nics[0].netwrk", "did you mean network?"),
    ("cloud_init: {users: [{name: a, passwd: x}]}", "cloud_init.users[0].passwd", "hashed_passwd"),
    ("clock: {zzz: 1}", "clock.zzz", "there are offset, timezone"),
    # sizes
    ("memory: 2048", "memory", "2048 has no unit; write 2048MiB"),
    ("memory: '2048'", "memory", "has no unit"),
    ("memory: 20G", "memory", "can mean two sizes; write 20GiB (1024) or 20GB (1000)"),
    ("memory: 0MiB", "memory", "more than 0"),
    ("memory: -1GiB", "memory", "more than 0"),
    ("memory: 2PiB", "memory", "more than 1 PiB"),
    ("memory: much", "memory", "is not a size; write it like"),
    ("memory: 1XiB", "memory", "is not a unit of size"),
    ("memory: 0.3KiB", "memory", "not a whole number of bytes"),
    ("memory: [1GiB]", "memory", "a size is text"),
    ("memory: true", "memory", "a size is text"),
    ("memory: 1MiB", "memory", "too little to start with"),
    ("memory: 16777217B", "memory", "not a whole number of KiB"),
    ("{memory: 2GiB, max_memory: 1GiB}", "max_memory", "1GiB is less than memory, which is 2GiB"),
    ("disks: [{size: 0GiB}]", "disks[0].size", "more than 0"),
    # types
    ("vcpus: many", "vcpus", "many is not a whole number"),
    ("vcpus: 0", "vcpus", "0 is not at least 1"),
    ("vcpus: 1.5", "vcpus", "whole number"),
    ("disks: {size: 1GiB}", "disks", "is not a list"),
    ("agent: maybe", "agent", "maybe is not true or false"),
    ("firmware: coreboot", "firmware.type", "coreboot is not one of bios or uefi"),
    ("labels: [a]", "labels", "is not a mapping"),
    ("labels: {a: 1}", "labels.a", "put quotes around it"),
    ('labels: {a: "x\\ny"}', "labels.a", "does not match"),
    ("boot: [disk]", "boot", "is not a mapping"),
    # processors
    ("{vcpus: 4, max_vcpus: 2}", "max_vcpus", "2 is less than vcpus, which is 4"),
    (
        "{vcpus: 4, cpu: {topology: {cores: 2}}}",
        "cpu.topology",
        "make 2 processors, and vcpus is 4",
    ),
    ("{max_vcpus: 4, cpu: {topology: {cores: 2}}}", "cpu.topology", "and max_vcpus is 4"),
    ("cpu: custom", "cpu.model", "mode custom needs a model"),
    ("cpu: {mode: host-model, model: qemu64}", "cpu.model", "a model needs mode custom"),
    ("cpu: {features: [vmx, vmx]}", "cpu.features[1]", "listed twice"),
    # machine and firmware
    (
        "machine: microvm",
        "machine",
        "is not a machine type for x86_64; there are q35, pc and isapc",
    ),
    ("{arch: aarch64, machine: q35}", "machine", "there are virt"),
    ("{arch: aarch64, profile: legacy}", "profile", "legacy has no machine for aarch64"),
    ("{arch: aarch64, firmware: bios}", "firmware.type", "there is no BIOS for machine type virt"),
    ("firmware: {secure_boot: true}", "firmware.secure_boot", "needs UEFI"),
    ("firmware: {type: bios, secure_boot: true}", "firmware.secure_boot", "needs UEFI"),
    (
        "{machine: pc, firmware: {type: uefi, secure_boot: true}}",
        "firmware.secure_boot",
        "needs machine type q35",
    ),
    ("firmware: {type: uefi, tpm: 1.2}", "firmware.tpm", "TPM 2.0 only"),
    ("firmware: {tpm: 3.0}", "firmware.tpm", "3.0 is not one of 1.2 or 2.0"),
    ("{arch: aarch64, firmware: {tpm: 1.2}}", "firmware.tpm", "there is no TPM 1.2"),
    ("{profile: legacy, machine: isapc, firmware: uefi}", "firmware.type", "there is no UEFI"),
    ("{profile: legacy, machine: isapc, firmware: {tpm: true}}", "firmware.tpm", "no TPM 2.0"),
    # boot
    ("boot: {initrd: /i}", "boot.initrd", "needs a kernel"),
    ("boot: {cmdline: quiet}", "boot.cmdline", "needs a kernel"),
    ("{disks: [{size: 1GiB}], boot: {order: [disk, disk]}}", "boot.order[1]", "listed twice"),
    ("boot: {order: [floppy]}", "boot.order[0]", "there is no floppy in this spec"),
    # disks
    (IDE5, "disks[4]", "an IDE controller takes four disks, this spec has five"),
    (
        "{profile: legacy, cloud_init: {}, disks: [{size: 1GiB}, {size: 1GiB}, {size: 1GiB}, "
        "{size: 1GiB}]}",
        "disks[3]",
        "five with the drive for cloud-init's seed",
    ),
    (
        "disks: [" + "{size: 1GiB, bus: sata}, " * 7 + "]",
        "disks[6]",
        "a SATA controller takes six disks, this spec has seven",
    ),
    ("disks: [" + "{size: 1GiB}, " * 201 + "]", "disks", "takes 200 drives"),
    (
        "disks: [{}]",
        "disks[0]",
        "needs a size (blank), an image (linked clone), a volume or a network disk",
    ),
    ("{image: a, disks: [{volume: v}]}", "disks[0].volume", "the clone of the machine's image"),
    ("{image: a, disks: [{image: b}]}", "disks[0].image", "contradicts the machine's own image"),
    ("disks: [{volume: v, image: a}]", "disks[0].volume", "an existing volume or a clone"),
    ("disks: [{volume: v, size: 1GiB}]", "disks[0].size", "has its size already"),
    ("disks: [{size: 1GiB, read_only: true}]", "disks[0].read_only", "only an existing volume"),
    ("{image: a, disks: [{read_only: true}]}", "disks[0].read_only", "only an existing volume"),
    (
        "disks: [{volume: v, bus: sata, read_only: true}]",
        "disks[0].read_only",
        "a disk on sata can't be read-only",
    ),
    (
        "{profile: legacy, disks: [{volume: v, read_only: true}]}",
        "disks[0].read_only",
        "a disk on ide can't be read-only",
    ),
    ("disks: [{size: 1000B}]", "disks[0].size", "1000B is not a whole number of sectors"),
    ("{image: a, disks: [{format: raw}]}", "disks[0].format", "a linked clone is qcow2"),
    ("disks: [{size: 1GiB, bus: fdc}]", "disks[0].bus", "fdc is for floppies"),
    ("disks: [{size: 1GiB, bus: ide}]", "disks[0].bus", "machine type q35 has no ide; it has"),
    ("disks: [{size: 1GiB, io: native}]", "disks[0].io", "needs cache: none"),
    ("disks: [{size: 1GiB, serial: 'a&b'}]", "disks[0].serial", "does not match"),
    (f"disks: [{{size: 1GiB, serial: {'a' * 21}}}]", "disks[0].serial", "more than 20 characters"),
    (
        "disks: [{size: 1GiB, serial: a}, {size: 1GiB, serial: a}]",
        "disks[1].serial",
        "a is disks[0]'s already",
    ),
    ("disks: [{volume: a}, {volume: a}]", "disks[1].volume", "is disks[0]'s already"),
    (
        "disks: [{size: 1GiB, target: vda}, {size: 1GiB, target: vda}]",
        "disks[1].target",
        "vda is disks[0]'s already",
    ),
    ("disks: [{size: 1GiB, target: sda}]", "disks[0].target", "is not a name on bus virtio"),
    ("disks: [{size: 1GiB, target: xvda}]", "disks[0].target", "does not match"),
    (
        "{profile: legacy, disks: [{size: 1GiB, target: hde}]}",
        "disks[0].target",
        "is not a name on bus ide",
    ),
    ("{machine: isapc, profile: legacy, disks: [{size: 1GiB}]}", "disks[0]", "any disk; pc can"),
    # drives
    ("cdroms: [{path: /a, volume: b}]", "cdroms[0].volume", "a drive holds one medium"),
    ("cdroms: [{bus: virtio}]", "cdroms[0].bus", "no CD-ROM drives on virtio"),
    ("cdroms: [{bus: usb}]", "cdroms[0]", "can't be empty"),
    ("floppies: [{path: /a, volume: b}]", "floppies[0].volume", "a drive holds one medium"),
    (
        "{profile: legacy, floppies: [{}, {}, {}]}",
        "floppies[2]",
        "a floppy controller takes two drives, this spec has three",
    ),
    ("{arch: aarch64, floppies: [{}]}", "floppies[0]", "has no floppy controller"),
    # NICs
    ("nics: [{}]", "nics[0]", "a NIC has one of"),
    ("nics: [{network: a, bridge: b}]", "nics[0]", "a NIC has one of"),
    ("nics: [{user: maybe}]", "nics[0]", "user is true or left out"),
    ("nics: [{type: bridge, user: true}]", "nics[0]", "contradicts type: bridge"),
    ("nics: [{type: network}]", "nics[0].network", "needs the network's name"),
    ("nics: [{type: user, network: a}]", "nics[0].network", "a NIC of type user has no network"),
    ("nics: [{network: a/b}]", "nics[0].network", "no '/'"),
    ("nics: [{bridge: a b}]", "nics[0].bridge", "is not a bridge's name"),
    ("nics: [{network: a, mac: 'x'}]", "nics[0].mac", "is not a MAC address"),
    ("nics: [{network: a, mac: 01:00:5e:00:00:01}]", "nics[0].mac", "multicast"),
    ("nics: [{network: a, mac: 00:00:00:00:00:00}]", "nics[0].mac", "nothing but zeros"),
    (
        "nics: [{network: a, mac: 52:54:00:00:00:01}, {network: a, mac: 52-54-00-00-00-01}]",
        "nics[1].mac",
        "is nics[0]'s already",
    ),
    ("nics: [{user: true, address: 10.0.2.20/24}]", "nics[0].address", "leave it out"),
    (
        "{cloud_init: {}, nics: [{network: a, address: 192.0.2.1}]}",
        "nics[0].address[0]",
        "has no prefix length; write 192.0.2.1/24",
    ),
    (
        "{cloud_init: {}, nics: [{network: a, address: 192.0.2.999/24}]}",
        "nics[0].address[0]",
        "is not an IP address with its prefix",
    ),
    (
        "{cloud_init: {}, nics: [{network: a, address: 192.0.2.255/24}]}",
        "nics[0].address[0]",
        "broadcast address",
    ),
    (
        "{cloud_init: {}, nics: [{network: a, address: 224.0.0.1/24}]}",
        "nics[0].address[0]",
        "is not a host's address",
    ),
    (
        "{cloud_init: {}, nics: [{network: a, address: 192.0.2.5/24, gateway: 198.51.100.1}]}",
        "nics[0].gateway",
        "198.51.100.1 is not inside 192.0.2.0/24",
    ),
    (
        "{cloud_init: {}, nics: [{network: a, address: 192.0.2.5/24, "
        "gateway: [192.0.2.1, 192.0.2.2]}]}",
        "nics[0].gateway[1]",
        "there is an IPv4 gateway already",
    ),
    ("nics: [{network: a, gateway: 192.0.2.1}]", "nics[0].gateway", "needs a static IPv4 address"),
    ("nics: [{network: a, nameservers: [dns]}]", "nics[0].nameservers[0]", "is not an IP address"),
    ("nics: [{network: a, address: 192.0.2.1/24}]", "nics[0].address", "set up by cloud-init"),
    (
        "{cloud_init: {}, nics: [{network: a, address: 192.0.2.1/24}, "
        "{network: b, address: 192.0.2.1/24}]}",
        "nics[1].address",
        "192.0.2.1 is nics[0]'s already",
    ),
    (
        "nics: [{bridge: a, forwards: [{host: 80, guest: 80}]}]",
        "nics[0].forwards",
        "on a network, or in user mode",
    ),
    (
        "nics: [{user: true, forwards: [{host: 80, guest: 80}, {host: 80, guest: 81}]}]",
        "nics[0].forwards[1].host",
        "tcp port 80 is nics[0].forwards[0]'s already",
    ),
    (
        "nics: [{user: true, forwards: [{host: 99999, guest: 80}]}]",
        "nics[0].forwards[0].host",
        "99999 is not at most 65535",
    ),
    ("nics: [" + "{network: a}, " * 33 + "]", "nics", "takes 32 NICs"),
    # smaller devices
    ("serials: [pty, pty, pty, pty, pty]", "serials", "takes four serial ports"),
    ("{serials: [], console: serial}", "console", "needs a serial port"),
    ("{video: none, graphics: [vnc]}", "graphics", "video is none"),
    ("graphics: [vnc, vnc]", "graphics[1]", "one vnc server"),
    (
        "graphics: [{type: vnc, port: 5900}, {type: spice, port: 5900}]",
        "graphics[1].port",
        "is graphics[0]'s already",
    ),
    ("graphics: [{type: vnc, password: ninechars}]", "graphics[0].password", "vnc takes 8"),
    ("video: qxl", "video.model", "qxl needs a spice server"),
    ("video: {model: virtio, vram: 16MiB}", "video.vram", "has no memory of its own"),
    ("video: {model: vga, vram: 1025KiB}", "video.vram", "whole number of MiB"),
    ("video: {model: vga, heads: 2}", "video.heads", "drives one screen"),
    ("inputs: [{type: tablet, bus: ps2}]", "inputs[0].bus", "no PS/2 tablets"),
    ("{arch: aarch64, inputs: [{type: mouse, bus: ps2}]}", "inputs[0].bus", "has no PS/2"),
    ("{arch: aarch64, video: vga}", "video.model", "use virtio or ramfb"),
    ("{arch: aarch64, watchdog: {model: ib700}}", "watchdog.model", "needs ISA"),
    ("{arch: aarch64, panic: isa}", "panic.model", "needs ISA"),
    ("{on_poweroff: restart, on_reboot: destroy}", "on_poweroff", "can't go together"),
    ("{on_reboot: preserve}", "on_reboot", "restart"),
    ("{on_crash: rename-restart}", "on_crash", "preserve"),
    ("{shares: [{source: /, target: a}]}", "shares[0].source", "whole file system"),
    ("{shares: [{source: srv, target: a}]}", "shares[0].source", "not an absolute path"),
    ("{shares: [{source: /srv/../etc, target: a}]}", "shares[0].source", "not a plain path"),
    ("{shares: [{source: /srv/, target: a}]}", "shares[0].source", "not a plain path"),
    (
        "{shares: [{source: /a, target: a, read_only: true, driver: virtiofs}]}",
        "shares[0].read_only",
        "can't be read-only",
    ),
    (
        "{shares: [{source: /a, target: a}, {source: /b, target: a}]}",
        "shares[1].target",
        "another share's",
    ),
    (
        "{profile: legacy, machine: isapc, shares: [{source: /a, target: a}]}",
        "shares",
        "needs PCI",
    ),
    ("{arch: aarch64, sound: sb16}", "sound.model", "needs ISA"),
    ("rng: {source: random}", "rng.source", "is not an absolute path"),
    ('rng: {source: "/dev/\\trandom"}', "rng.source", "control character"),
    ("rng: {rate_period: 1}", "rng.rate_period", "needs rate_bytes"),
    ("clock: {offset: utc, timezone: Europe/Berlin}", "clock.timezone", "contradicts offset: utc"),
    ("clock: timezone", "clock.timezone", "needs a timezone"),
    ("clock: {timezone: '../etc'}", "clock.timezone", "does not match"),
    ("{profile: legacy, machine: isapc, rng: {}}", "rng", "needs PCI"),
    ("{profile: legacy, machine: isapc, vcpus: 2}", "vcpus", "has one processor"),
    ("{profile: legacy, machine: isapc, nics: [{network: a}]}", "nics[0]", "write nics: []"),
    ("{profile: legacy, machine: isapc, inputs: [tablet]}", "inputs[0].bus", "usb needs PCI"),
    ("{profile: legacy, machine: isapc, max_memory: 1GiB}", "max_memory", "can't be plugged"),
    ('image: "a\\0b"', "image", "control character"),
    (f"image: {'a' * 5000}", "image", "more than 4096 characters"),
    # cloud-init
    ("cloud_init: {hostname: a_b}", "cloud_init.hostname", "is not a host name"),
    ("cloud_init: {users: [Root]}", "cloud_init.users[0].name", "is not a user's name"),
    ("cloud_init: {users: [a, a]}", "cloud_init.users[1].name", "a is listed twice"),
    (
        "cloud_init: {users: [{name: a, lock_passwd: false}]}",
        "cloud_init.users[0].lock_passwd",
        "needs a hashed_passwd",
    ),
    (
        "cloud_init: {users: [{name: a, hashed_passwd: secret}]}",
        "cloud_init.users[0].hashed_passwd",
        "a password in the clear is never taken",
    ),
    (
        "cloud_init: {users: [{name: a, ssh_authorized_keys: [hello]}]}",
        "cloud_init.users[0].ssh_authorized_keys[0]",
        "is not a public SSH key",
    ),
    (
        "cloud_init: {users: [{name: a, ssh_authorized_keys: ['-BEGIN RSA PRIVATE KEY-']}]}",
        "cloud_init.users[0].ssh_authorized_keys[0]",
        "is a private key",
    ),
    ("cloud_init: {write_files: [{path: etc}]}", "cloud_init.write_files[0].path", "match"),
    (
        "cloud_init: {write_files: [{path: /a, permissions: rw}]}",
        "cloud_init.write_files[0].permissions",
        "is not a file mode",
    ),
    ("cloud_init: {runcmd: ['']}", "cloud_init.runcmd[0]", "empty command"),
    ("cloud_init: {runcmd: [[]]}", "cloud_init.runcmd[0]", "a line for the shell"),
    ("cloud_init: {runcmd: [{a: b}]}", "cloud_init.runcmd[0]", "a line for the shell"),
    ("cloud_init: {runcmd: ls}", "cloud_init.runcmd", "is not a list"),
    ("cloud_init: {user_data: [a]}", "cloud_init.user_data", "must be a mapping"),
    ("cloud_init: {user_data: '#!/bin/sh'}", "cloud_init.user_data", "must be a mapping"),
    ("cloud_init: {user_data: 'a: [b'}", "cloud_init.user_data", "is not YAML"),
    ("cloud_init: {user_data: 'a: 2020-01-01'}", "cloud_init.user_data", "put quotes around it"),
    ("cloud_init: {user_data: {'a b': 1}}", "cloud_init.user_data", "a key at the top"),
    ("cloud_init: {user_data: {'on': 1}}", "cloud_init.user_data", "a key at the top"),
    (
        "cloud_init: {user_data: {password: secret}}",
        "cloud_init.user_data.password",
        "password in the clear",
    ),
    (
        "cloud_init: {user_data: {users: [{plain_text_passwd: x}]}}",
        "cloud_init.user_data.users[0].plain_text_passwd",
        "password in the clear",
    ),
    (
        "cloud_init: {vendor_data: {chpasswd: {users: [{name: a, password: x}]}}}",
        "cloud_init.vendor_data.chpasswd.users[0].password",
        "password in the clear",
    ),
    (
        "cloud_init: {user_data: {chpasswd: {list: 'a:b'}}}",
        "cloud_init.user_data.chpasswd.list",
        "use users",
    ),
    ("cloud_init: {network_config: {version: 1}}", "cloud_init.network_config.version", "be 2"),
]


def problems_of(added: str) -> list[tuple[str, str]]:
    if added.startswith("{"):
        text = f"{{name: vm, {added[1:-1]}}}"
    else:
        text = added if added.startswith("name:") else f"name: vm\n{added}"
    with pytest.raises(SpecError) as caught:
        VMSpec.from_yaml(text)
    assert caught.value.exit_code == 7
    assert caught.value.hint
    return [(problem.path, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(("added", "path", "message"), WRONG)
def test_problem_is_named_with_its_path(added: str, path: str, message: str) -> None:
    found = problems_of(added)
    assert path in [place for place, _ in found], found
    assert any(place == path and message in words for place, words in found), found
    assert len(found) == 1, found


def test_all_problems_are_reported_at_once() -> None:
    found = problems_of("{vcpus: x, memory: 1, disks: [{size: 1}, {bus: scuzzy}], frobs: 1}")
    assert {path for path, _ in found} == {
        "vcpus",
        "memory",
        "disks[0].size",
        "disks[1].bus",
        "frobs",
    }


def test_one_problem_is_in_the_brief_and_nowhere_else() -> None:
    with pytest.raises(SpecError) as caught:
        VMSpec.from_yaml("name: vm\nvcpus: 0", source="web.yaml")
    assert caught.value.brief == "web.yaml is not valid: vcpus: 0 is not at least 1"
    assert caught.value.details == ""
    assert str(caught.value.problems[0]) == "vcpus: 0 is not at least 1"


def test_several_problems_are_lines_of_details() -> None:
    with pytest.raises(SpecError) as caught:
        VMSpec.from_yaml("name: vm\nvcpus: 0\nmax_vcpus: 0")
    assert caught.value.brief == "the spec is not valid, 2 problems"
    assert caught.value.details.splitlines() == [
        "vcpus: 0 is not at least 1",
        "max_vcpus: 0 is not at least 1",
    ]
