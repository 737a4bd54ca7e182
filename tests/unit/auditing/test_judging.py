"""Each line of an audit, both ways."""

from __future__ import annotations

from typing import Any

import pytest
from lxml import etree

from vmctl.audit import _JUDGES
from vmctl.auditing.line import AuditLine
from vmctl.auditing.seen import Seen
from vmctl.hypervisor.audit_facts import FileMode
from vmctl.hypervisor.network_owners import NetworkOwner
from vmctl.hypervisor.processes import ProcessFacts
from vmctl.render import FirmwareImage, HostFacts

OWN = HostFacts(
    kvm=True,
    tpm=True,
    firmware=(FirmwareImage(loader="/l", nvram_template="/n", secure_boot=True),),
    security_models=("apparmor", "dac"),
    features=frozenset({"sev"}),
)
BARE = HostFacts(
    lacking=frozenset({"shaping", "cpu-limits", "bridge-filters"}), security_models=("none",)
)
QEMU = ProcessFacts(pid=7, user=64055, seccomp=2, no_new_privileges=True, capabilities=0)


def seen(devices: str = "", top: str = "", kind: str = "kvm", **more: Any) -> Seen:
    xml = f"<domain type='{kind}'>{top}<devices>{devices}</devices></domain>"
    fields: dict[str, Any] = {
        "root": etree.fromstring(xml),
        "running": True,
        "argv": (),
        "process": None,
        "files": (),
        "tenant": "",
        "has_seed": False,
        "networks": {},
        "filters": FILTERS,
        "facts": OWN,
    }
    return Seen(**(fields | more))


def line(check: str, what: Seen) -> AuditLine:
    found = {entry.check: entry for judge in _JUDGES for entry in judge(what)}
    return found[check]


FILTERS = {
    "vmctl-nic-1": frozenset({"vmctl-nic-1", "vmctl-fence-1", "vmctl-antispoofing-1"}),
    "vmctl-fence-1": frozenset({"vmctl-fence-1"}),
    "other": frozenset({"other"}),
}


def owner(**more: Any) -> NetworkOwner:
    fields: dict[str, Any] = {
        "made_by_vmctl": True,
        "tenant": "",
        "shared": False,
        "isolates_guests": False,
        "gateways": (),
    }
    return NetworkOwner(**(fields | more))


def nic(inner: str = "", kind: str = "network") -> str:
    return (
        f"<interface type='{kind}'><mac address='52:54:00:00:00:01'/>"
        f"<source network='a'/>{inner}</interface>"
    )


LABEL = "<seclabel type='dynamic' model='apparmor'><label>libvirt-x</label></seclabel>"
SPICE = "<graphics type='spice' passwd='p'><listen type='address' address='::1'/>{}</graphics>"
SHUT = "<clipboard copypaste='no'/><filetransfer enable='no'/>"
HELD: list[tuple[str, Seen]] = [
    ("accelerator", seen()),
    ("machine-type", seen(top="<os><type machine='pc-q35-7.2'>hvm</type></os>")),
    ("machine-type", seen(top="<os><type machine='pc-i440fx-7.2'>hvm</type></os>")),
    ("security-label", seen(top=LABEL)),
    ("unprivileged", seen(process=QEMU)),
    (
        "unprivileged",
        seen(top="<seclabel model='dac'><label>+64055:+64055</label></seclabel>"),
    ),
    ("seccomp", seen(process=QEMU)),
    ("seccomp", seen(argv=("qemu", "-sandbox", "on,spawn=deny"))),
    ("files", seen(files=(FileMode(name="a", mode=0o600, role="disk"),))),
    ("seed", seen()),
    ("seed", seen(has_seed=True, files=(FileMode(name="s", mode=0o600, role="seed"),))),
    ("usb", seen("<controller type='usb' model='none'/>")),
    ("redirection", seen()),
    ("screen", seen()),
    ("screen", seen("<graphics type='vnc' passwd='p'><listen type='address'/></graphics>")),
    ("clipboard-and-files", seen(SPICE.format(SHUT))),
    ("host-folders", seen()),
    ("agent", seen()),
    ("devices", seen("<memballoon model='none'/><video><model type='none'/></video>")),
    ("devices", seen("<input type='mouse' bus='ps2'/><watchdog model='itco'/>")),
    ("page-merging", seen(top="<memoryBacking><nosharepages/></memoryBacking>")),
    (
        "cpu-limit",
        seen(top="<cputune><quota>1</quota><emulator_quota>1</emulator_quota></cputune>"),
    ),
    ("disk-limits", seen("<disk><target dev='vda'/><iotune/></disk><disk device='cdrom'/>")),
    ("nic-limits", seen(nic("<bandwidth/>"))),
    ("rng-limit", seen("<rng><rate bytes='1'/></rng>")),
    ("anti-spoofing", seen(nic("<filterref filter='vmctl-nic-1'/>") + nic(kind="user"))),
    ("isolated-ports", seen(nic("<port isolated='yes'/>") + nic(kind="user"))),
    ("isolated-ports", seen(nic(), networks={"a": owner(isolates_guests=True)})),
    (
        "tenant",
        seen(
            nic("<filterref filter='vmctl-fence-1'/>"),
            tenant="acme",
            networks={"a": owner(tenant="acme")},
        ),
    ),
    (
        "tenant",
        seen(
            nic("<filterref filter='vmctl-nic-1'/>"),
            tenant="acme",
            networks={"a": owner(shared=True)},
        ),
    ),
    ("secure-boot", seen(top="<os><loader secure='yes'/></os>")),
    ("tpm", seen("<tpm><backend type='emulator' version='2.0'/></tpm>")),
    ("launch-security", seen(top="<launchSecurity type='sev'/>")),
]
FAILED: list[tuple[str, str, Seen]] = [
    ("accelerator", "spec", seen(kind="qemu")),
    ("accelerator", "host", seen(kind="qemu", facts=BARE)),
    ("machine-type", "spec", seen(top="<os><type machine='isapc'>hvm</type></os>")),
    ("security-label", "host", seen(facts=BARE)),
    ("security-label", "spec", seen()),
    ("security-label", "spec", seen(top="<seclabel model='apparmor' type='none'/>")),
    (
        "unprivileged",
        "host",
        seen(
            process=ProcessFacts(pid=1, user=0, seccomp=0, no_new_privileges=False, capabilities=1)
        ),
    ),
    (
        "unprivileged",
        "host",
        seen(
            process=ProcessFacts(pid=1, user=9, seccomp=0, no_new_privileges=False, capabilities=1)
        ),
    ),
    (
        "seccomp",
        "host",
        seen(
            process=ProcessFacts(pid=1, user=9, seccomp=0, no_new_privileges=False, capabilities=0)
        ),
    ),
    ("seccomp", "host", seen(argv=("qemu", "-sandbox", "off"))),
    ("files", "host", seen(files=(FileMode(name="a", mode=0o644, role="disk"),))),
    (
        "seed",
        "host",
        seen(has_seed=True, files=(FileMode(name="s", mode=0o604, role="seed"),)),
    ),
    ("usb", "spec", seen("<controller type='usb' model='qemu-xhci'/>")),
    ("redirection", "spec", seen("<redirdev bus='usb' type='spicevmc'/>")),
    ("redirection", "spec", seen("<hostdev type='pci'/>")),
    ("screen", "spec", seen("<graphics type='vnc'><listen type='address'/></graphics>")),
    (
        "screen",
        "spec",
        seen(
            "<graphics type='vnc' passwd='p'><listen type='address' address='0.0.0.0'/></graphics>"
        ),
    ),
    ("clipboard-and-files", "spec", seen(SPICE.format(""))),
    (
        "clipboard-and-files",
        "spec",
        seen("<channel type='spicevmc'><target name='com.redhat.spice.0'/></channel>"),
    ),
    ("host-folders", "spec", seen("<filesystem><source dir='/srv'/></filesystem>")),
    ("agent", "spec", seen("<channel><target name='org.qemu.guest_agent.0'/></channel>")),
    ("devices", "spec", seen("<memballoon model='virtio'/>")),
    ("devices", "spec", seen("<video><model type='vga'/></video>")),
    ("devices", "spec", seen("<input type='tablet' bus='usb'/>")),
    ("page-merging", "spec", seen()),
    ("cpu-limit", "spec", seen()),
    ("cpu-limit", "host", seen(facts=BARE)),
    ("disk-limits", "spec", seen("<disk><target dev='vda'/></disk>")),
    ("nic-limits", "spec", seen(nic())),
    ("nic-limits", "host", seen(nic("<bandwidth/>"), facts=BARE)),
    ("rng-limit", "spec", seen("<rng/>")),
    ("anti-spoofing", "spec", seen(nic())),
    ("anti-spoofing", "spec", seen(nic("<filterref filter='vmctl-fence-1'/>"))),
    ("tenant", "spec", seen()),
    ("tenant", "spec", seen(nic(), tenant="acme", networks={"a": owner(tenant="acme")})),
    ("tenant", "spec", seen(nic(), tenant="acme", networks={"a": owner(tenant="beta")})),
    ("tenant", "spec", seen(nic(kind="user"), tenant="acme")),
    (
        "tenant",
        "host",
        seen(
            nic("<filterref filter='vmctl-fence-1'/>"),
            tenant="acme",
            networks={"a": owner(tenant="acme")},
            facts=BARE,
        ),
    ),
    (
        "tenant",
        "spec",
        seen(
            nic("<filterref filter='other'/>"),
            tenant="acme",
            networks={"a": owner(tenant="acme")},
        ),
    ),
    ("isolated-ports", "spec", seen(nic())),
    ("secure-boot", "spec", seen(top="<os><loader secure='no'/></os>")),
    ("secure-boot", "host", seen(facts=BARE)),
    ("tpm", "spec", seen()),
    ("tpm", "host", seen(facts=BARE)),
    ("launch-security", "spec", seen()),
    ("launch-security", "host", seen(facts=BARE)),
]
UNSEEN: list[tuple[str, Seen]] = [
    ("security-label", seen(running=False)),
    ("unprivileged", seen()),
    ("seccomp", seen()),
    ("files", seen()),
    ("seed", seen(has_seed=True)),
    (
        "tenant",
        seen(
            nic("<filterref filter='vmctl-fence-1'/>"),
            tenant="acme",
            networks={"a": owner(tenant="acme")},
            is_here=False,
        ),
    ),
]


@pytest.mark.parametrize(
    ("check", "what"), HELD, ids=lambda part: part if isinstance(part, str) else ""
)
def test_it_holds(check: str, what: Seen) -> None:
    found = line(check, what)
    assert (found.verdict, found.owes, found.needs) == ("holds", "", "")
    assert found.found


@pytest.mark.parametrize(
    ("check", "owes", "what"), FAILED, ids=lambda part: part if isinstance(part, str) else ""
)
def test_it_fails_and_says_who_owes_what(check: str, owes: str, what: Seen) -> None:
    found = line(check, what)
    assert (found.verdict, found.owes) == ("fails", owes)
    assert found.needs


@pytest.mark.parametrize(
    ("check", "what"), UNSEEN, ids=lambda part: part if isinstance(part, str) else ""
)
def test_it_cant_be_seen(check: str, what: Seen) -> None:
    assert line(check, what).verdict == "unknown"


def test_each_line_is_tried_both_ways() -> None:
    checks = {entry.check for judge in _JUDGES for entry in judge(seen())}
    assert {check for check, _ in HELD} == checks
    assert {check for check, _, _ in FAILED} == checks
