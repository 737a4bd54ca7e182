"""What the host decides, and what it is refused for."""

from __future__ import annotations

from typing import Any

import pytest

from vmctl.errors import UnsupportedError, UsageError
from vmctl.render import (
    FirmwareImage,
    HostFacts,
    Placement,
    disk_targets,
    mac_address,
    render_domain,
    with_macs,
)
from vmctl.spec import VMSpec
from vmctl.spec.drives import DriveKind, place_drives

UUID = "8d4a2b3c-1111-4222-8333-444455556666"
UEFI = FirmwareImage(loader="/l", nvram_template="/n")
SECURE = FirmwareImage(loader="/s", nvram_template="/m", secure_boot=True)


def render(
    facts: HostFacts | None = None, placement: dict[str, Any] | None = None, **spec: Any
) -> str:
    values = {"uuid": UUID, **(placement or {})}
    return render_domain(VMSpec(name="a", **spec), facts or HostFacts(), Placement(**values))


REFUSED: list[tuple[dict[str, Any], HostFacts, str]] = [
    ({"firmware": "uefi"}, HostFacts(), "the host has no UEFI firmware for x86_64"),
    ({"firmware": "uefi"}, HostFacts(firmware=(SECURE,)), "the host has no UEFI firmware"),
    (
        {"firmware": {"type": "uefi", "secure_boot": True}},
        HostFacts(firmware=(UEFI,)),
        "no UEFI firmware with secure boot",
    ),
    ({"arch": "aarch64"}, HostFacts(firmware=(UEFI,)), "x86_64 guests only"),
    ({"arch": "aarch64"}, HostFacts(emulators={"x86_64": "/q"}), "no emulator for aarch64"),
    (
        {"machine": "pc-q35-9.0"},
        HostFacts(machines={"x86_64": ("q35", "pc-q35-7.2")}),
        "pc-q35-9.0",
    ),
    ({"firmware": {"tpm": True}}, HostFacts(), "no emulated TPM"),
    ({"graphics": ["spice"]}, HostFacts(), "no SPICE"),
    ({"cpu": "host-passthrough"}, HostFacts(kvm_reason="no vmx"), r"needs KVM.*\(no vmx\)"),
    ({"cpu": "host-model", "accel": "tcg"}, HostFacts(kvm=True), "needs KVM"),
    (
        {"arch": "aarch64", "accel": "kvm"},
        HostFacts(firmware=(UEFI,)),
        "can't run an aarch64 guest",
    ),
    ({"accel": "kvm"}, HostFacts(kvm_reason="no /dev/kvm"), "the host has no KVM: no /dev/kvm"),
    ({"nics": [{"network": "a"}]}, HostFacts(privileged=False), r"nics\[0\] joins a network"),
]


@pytest.mark.parametrize(("spec", "facts", "message"), REFUSED)
def test_what_the_host_can_not_do_is_refused(
    spec: dict[str, Any], facts: HostFacts, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        render(facts, **spec)
    assert "\n" not in caught.value.brief


def test_accelerator() -> None:
    assert "<domain type='qemu'>" in render()
    assert "<domain type='kvm'>" in render(HostFacts(kvm=True))
    assert "<domain type='kvm'>" in render(HostFacts(kvm_offered=True), accel="kvm")
    assert "<domain type='qemu'>" in render(HostFacts(kvm=True), accel="tcg")
    assert "<domain type='kvm'>" in render(HostFacts(kvm=True), arch="i686")


def test_the_same_input_gives_the_same_bytes() -> None:
    assert render(labels={"b": "1", "a": "2"}) == render(labels={"b": "1", "a": "2"})


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"disks": ("/a",)}, "has 1 disks, the spec has 0"),
        ({"cdroms": (None,)}, "has 1 cdroms"),
        ({"seed": "/s"}, "no drive for it"),
        ({"has_seed": True}, "has no cloud_init"),
        ({"kernel": "/k"}, "both have a kernel"),
        ({"initrd": "/k"}, "both have an initrd"),
    ],
)
def test_placement_has_to_fit(placement: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(placement=placement)


def test_macs_are_derived_and_given_ones_stay() -> None:
    given = mac_address(UUID, 1)
    spec = VMSpec(
        name="a", nics=[{"network": "n"}, {"network": "n"}, {"network": "n", "mac": given}]
    )
    macs = [nic.mac for nic in with_macs(spec, UUID).nics]
    assert macs[0] == mac_address(UUID, 0)
    assert macs[2] == given
    assert len(set(macs)) == 3
    assert all(mac is not None and mac.startswith("52:54:00:") for mac in macs)
    assert with_macs(with_macs(spec, UUID), UUID) == with_macs(spec, UUID)
    assert mac_address(UUID, 0) == mac_address(UUID.upper(), 0) != mac_address(UUID[::-1], 0)


def test_targets() -> None:
    spec = VMSpec(
        name="a", image="i", disks=[{}, {"size": "1GiB", "bus": "scsi"}, {"size": "1GiB"}]
    )
    assert disk_targets(spec) == ("vda", "sda", "vdb")
    assert _seed_targets(spec) == ["sdz"]
    assert _seed_targets(VMSpec(name="a", profile="legacy", cloud_init={})) == ["hdd"]
    old = VMSpec(name="a", profile="legacy", machine="q35", cloud_init={})
    assert _seed_targets(old) == ["sdf"]
    assert _seed_targets(VMSpec(name="a")) == []


def _seed_targets(spec: VMSpec) -> list[str]:
    placed = place_drives(spec.resolved())
    return [drive.target for drive in placed if drive.kind is DriveKind.SEED]


def test_drive_of_the_seed_is_there_without_a_seed() -> None:
    text = render(placement={"has_seed": True}, cloud_init={})
    assert "sdz" in text
    assert "<source file" not in text
    assert "sdz" not in render(cloud_init={})


def test_spare_ports_for_hot_plug() -> None:
    few, more = render(nics=[]), render()
    assert more.count("pcie-root-port") == few.count("pcie-root-port") + 1
    assert few.count("pcie-root-port") >= 8
