"""What the profile `isolated` decides, and what it wishes for where the host has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lxml import etree

from vmctl.errors import SpecError, UnsupportedError
from vmctl.render import FirmwareImage, HostFacts, Placement, render_domain
from vmctl.render.wishes import resolved_for, wished_of
from vmctl.spec import NicSpec, VMSpec

UUID = "8d4a2b3c-1111-4222-8333-444455556666"
RICH = HostFacts(
    kvm=True,
    kvm_offered=True,
    tpm=True,
    firmware=(
        FirmwareImage(loader="/l", nvram_template="/n"),
        FirmwareImage(loader="/s", nvram_template="/m", secure_boot=True),
    ),
    security_models=("selinux", "dac"),
)
POOR = HostFacts(lacking=frozenset({"shaping", "cpu-limits"}), security_models=("none",))


def spec(**fields: Any) -> VMSpec:
    return VMSpec.model_validate({"name": "a", "profile": "isolated", **fields})


def xml(wanted: VMSpec, facts: HostFacts) -> etree._Element:
    resolved = resolved_for(wanted, facts)
    placement = Placement(
        uuid=UUID,
        disks=tuple(f"/d{index}" for index, _ in enumerate(resolved.disks)),
        disk_formats=("qcow2",) * len(resolved.disks),
    )
    return etree.fromstring(render_domain(resolved, facts, placement))


def test_a_rich_host_grants_all() -> None:
    root = xml(spec(firmware="uefi", disks=[{"size": "1GiB"}]), RICH)
    assert root.find("devices/tpm/backend[@version='2.0']") is not None
    assert root.find("os/loader[@secure='yes']") is not None
    assert root.findtext("cputune/quota") == "100000"
    assert root.find("devices/interface/bandwidth/inbound[@average='131072']") is not None
    assert [label.get("model") for label in root.findall("seclabel")] == ["selinux", "dac"]
    assert root.find("memoryBacking/nosharepages") is not None
    assert root.findtext("devices/disk/iotune/total_iops_sec") == "2000"
    assert [node.get("model") for node in root.findall("devices/controller[@type='usb']")] == [
        "none"
    ]
    for absent in ("redirdev", "input", "graphics", "sound", "channel", "hostdev"):
        assert root.find(f"devices/{absent}") is None


def test_a_poor_host_is_asked_for_nothing_that_it_lacks() -> None:
    root = xml(spec(), POOR)
    for absent in ("devices/tpm", "cputune", "devices/interface/bandwidth", "seclabel"):
        assert root.find(absent) is None
    assert root.find("memoryBacking/nosharepages") is not None


def test_what_is_written_wins() -> None:
    wanted = spec(
        firmware={"type": "uefi", "secure_boot": False, "tpm": None},
        cpu={"limit": None},
        nics=[{"network": "default", "bandwidth": None}],
        disks=[{"size": "1GiB", "iotune": None}],
        merge_pages=True,
        confined=False,
    )
    root = xml(wanted, RICH)
    for absent in ("devices/tpm", "cputune", "devices/interface/bandwidth", "seclabel"):
        assert root.find(absent) is None
    assert root.find("os/loader[@secure='no']") is not None
    assert root.find("memoryBacking") is None
    assert root.find("devices/disk/iotune") is None


def test_a_bios_stays_one() -> None:
    resolved = resolved_for(spec(), RICH)
    assert resolved.firmware.type == "bios"
    assert resolved.firmware.secure_boot is False


@pytest.mark.parametrize("facts", [RICH, POOR])
def test_again_it_changes_nothing(facts: HostFacts) -> None:
    once = resolved_for(spec(firmware="uefi"), facts)
    assert resolved_for(once, facts) == once
    # A record that was made where something was missing says so for ever.
    assert VMSpec.from_record(once.without_secrets()).resolved() == once


def test_other_profiles_wish_for_nothing() -> None:
    wanted = VMSpec.model_validate({"name": "a"})
    assert resolved_for(wanted, RICH) == wanted.resolved()


def test_what_is_written_and_lacking_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no cgroups"):
        xml(spec(cpu={"limit": 50}), POOR)
    with pytest.raises(UnsupportedError, match=r"nics\[0\] has a bandwidth"):
        xml(spec(nics=[{"network": "default", "bandwidth": {"inbound": 5}}]), POOR)
    blind = HostFacts(lacking=frozenset({"bridge-filters"}))
    with pytest.raises(UnsupportedError, match="nothing would keep its guest from the host"):
        xml(spec(nics=[{"network": "default", "fence": {}}]), blind)


def test_a_screen_is_on_loopback() -> None:
    shown = {"video": "vga", "graphics": [{"listen": "192.0.2.1", "password": "p"}]}
    with pytest.raises(SpecError) as caught:
        spec(**shown)
    assert [problem.path for problem in caught.value.problems] == ["graphics[0].listen"]
    assert spec(video="vga", graphics=[{"listen": "::1", "password": "p"}])


@pytest.mark.parametrize(
    ("kind", "policy"), [("sev", "0x0003"), ("sev-snp", "0x30000"), ("tdx", "0x10000000")]
)
def test_launch_security_is_rendered_or_refused(kind: str, policy: str) -> None:
    wanted = spec(firmware="uefi", launch_security=kind)
    with pytest.raises(UnsupportedError, match=f"no launch security of type {kind}"):
        xml(wanted, RICH)
    root = xml(wanted, replace(RICH, features=frozenset({kind})))
    assert root.findtext(f"launchSecurity[@type='{kind}']/policy") == policy
    # It can't be had together with secure boot, which takes the mode that it forbids.
    assert root.find("os/loader[@secure='no']") is not None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"firmware": "uefi", "machine": "pc"},
        {"firmware": "uefi", "accel": "tcg"},
        {"firmware": "uefi", "max_memory": "2GiB"},
        {"firmware": "uefi", "launch_security": {"type": "tdx", "kernel_hashes": True}},
        {"firmware": "uefi", "launch_security": {"type": "sev", "policy": 1 << 32}},
    ],
)
def test_launch_security_that_can_never_be(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        spec(**{"launch_security": "sev", **fields})


def test_a_nic_that_comes_later_is_limited_too() -> None:
    nic = NicSpec.model_validate({"network": "default"})
    assert wished_of(spec(), nic, RICH).bandwidth is not None
    assert wished_of(spec(), nic, POOR) == nic
    user = NicSpec.model_validate({"user": True})
    assert wished_of(spec(), user, RICH) == user
