"""What an audit says of guests, and what is so: seen from both sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl.hypervisor import private

from .conftest import enter_host

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for network namespaces"),
]


def _launched(host: vmctl.Host, image: str, profile: str, **more: object) -> vmctl.VM:
    fields = {
        "name": f"audit-{profile}",
        "image": image,
        "profile": profile,
        "memory": "192MiB",
        "nics": [{"network": "default"}],
    }
    return host.launch(vmctl.VMSpec.model_validate(fields | more), wait=False)


@pytest.fixture(scope="module")
def cell(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    vm = _launched(host, micro_image, "isolated")
    yield vm
    vm.delete()


@pytest.fixture(scope="module")
def open_house(cell: vmctl.VM, host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    vm = _launched(
        host,
        micro_image,
        "modern",
        inputs=[{"type": "tablet", "bus": "usb"}],
        graphics=[{"type": "vnc", "listen": "0.0.0.0"}],  # noqa: S104
    )
    # Both boot at once.
    for booting in (cell, vm):
        booting.wait()
    yield vm
    vm.delete()


def said(vm: vmctl.VM) -> dict[str, str]:
    return {line.check: str(line.verdict) for line in vm.audit().lines}


def qemu_of(vm: vmctl.VM) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the status of a machine's QEMU, past vmctl's own look."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_text().split("\0")
                status = (entry / "status").read_text()
            except (OSError, UnicodeDecodeError):
                continue
            if vm.uuid in words:
                lines = (line.partition(":") for line in status.splitlines())
                return words, {name: value.strip() for name, _, value in lines}
    raise AssertionError(f"no QEMU of {vm.name}")


def usb_in(vm: vmctl.VM) -> str:
    """Return what the guest's PCI bus has of class 0c03, a USB controller."""
    return vm.run("grep -l 0x0c03 /sys/bus/pci/devices/*/class || true", check=True).stdout


def test_a_cell_and_an_open_house(cell: vmctl.VM, open_house: vmctl.VM) -> None:
    inside, outside = said(cell), said(open_house)
    for check in (
        "usb",
        "redirection",
        "screen",
        "clipboard-and-files",
        "agent",
        "devices",
        "page-merging",
        "disk-limits",
        "rng-limit",
        "anti-spoofing",
        "isolated-ports",
    ):
        assert inside[check] == "holds", check
    for check in (
        "usb",
        "screen",
        "agent",
        "devices",
        "page-merging",
        "disk-limits",
        "nic-limits",
        "rng-limit",
        "anti-spoofing",
        "isolated-ports",
        "tenant",
    ):
        assert outside[check] == "fails", check
    # What only the host could do about it.
    owed = {line.check for line in cell.audit().lines if line.owes == "host"}
    facts = cell._host.facts
    assert "accelerator" in owed or facts.kvm
    assert "security-label" in owed or {"selinux", "apparmor"} & set(facts.security_models)
    assert ("nic-limits" in owed) is ("shaping" in facts.lacking)
    assert "cpu-limit" in owed
    assert "launch-security" in owed


def test_what_is_said_is_so(cell: vmctl.VM, open_house: vmctl.VM) -> None:
    """In QEMU's process, and in the guest."""
    closed, status = qemu_of(cell)
    opened, _ = qemu_of(open_house)
    machine = closed[closed.index("-machine") + 1]
    assert "mem-merge=off" in machine
    assert "mem-merge=off" not in opened[opened.index("-machine") + 1]
    assert said(cell)["seccomp"] == "holds"
    assert status["Seccomp"] == "2"
    assert said(cell)["unprivileged"] == "holds"
    assert status["Uid"].split()[1] != "0"
    assert int(status["CapEff"], 16) == 0
    assert usb_in(cell) == ""
    assert usb_in(open_house) != ""
    # No virtio device but those that a guest needs: block, NIC, random numbers, SCSI or console.
    kinds = cell.run("cat /sys/bus/virtio/devices/*/device", check=True).stdout.split()
    assert "0x0005" not in kinds  # a balloon
    assert "0x0005" in open_house.run("cat /sys/bus/virtio/devices/*/device").stdout.split()
    ports = "ls /sys/class/virtio-ports 2>/dev/null | wc -l"
    assert cell.run(ports, check=True).stdout.strip() == "0"
    assert open_house.run(ports, check=True).stdout.strip() != "0"


def test_seeds_and_disks_are_read_by_nobody(
    cell: vmctl.VM, host: vmctl.Host, private_host: private.PrivateHost
) -> None:
    assert said(cell)["files"] == "holds"
    assert said(cell)["seed"] == "holds"
    record = cell._domain.record()
    assert record is not None
    disk = next(volume for volume in record.volumes if volume.role == "disk")
    raw = host._connection.raw.storagePoolLookupByName(disk.pool)
    chmod = [*enter_host(private_host), "chmod"]
    path = raw.storageVolLookupByName(disk.name).path()
    subprocess.run([*chmod, "644", path], check=True)
    try:
        raw.refresh(0)
        line = cell.audit().line("files")
        assert (line.verdict, line.owes) == ("fails", "host")
        assert disk.name in line.found
    finally:
        subprocess.run([*chmod, "600", path], check=True)
        raw.refresh(0)
    assert said(cell)["files"] == "holds"


def test_a_seed_that_is_there_is_closed(host: vmctl.Host, micro_image: str) -> None:
    vm = host.create(
        vmctl.VMSpec.model_validate(
            {"name": "audit-new", "image": micro_image, "nics": [{"user": True}]}
        )
    )
    try:
        audit = vm.audit()
        assert not audit.running
        assert audit.line("seed").verdict == "holds"
        assert "600" in audit.line("seed").found
        # Of one that is off, QEMU's command line tells what its next start would have.
        assert audit.line("seccomp").verdict == "holds"
        assert "-sandbox" in audit.line("seccomp").found
    finally:
        vm.delete()


def test_the_command(cell: vmctl.VM, private_host: private.PrivateHost) -> None:
    command = [sys.executable, "-m", "vmctl.cli.main", "--uri", f"private:{private_host.name}"]
    words = [*command, "audit", cell.name]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "holds    usb" in told
    strict = subprocess.run(
        [*words, "--strict", "--format", "json"], check=False, capture_output=True, text=True
    )
    assert strict.returncode == 1
    data = json.loads(strict.stdout)
    assert (data["name"], data["running"]) == (cell.name, True)
    assert {tuple(sorted(line)) for line in data["lines"]} == {
        ("check", "found", "needs", "owes", "verdict")
    }
    assert {line["verdict"] for line in data["lines"]} <= {"holds", "fails", "unknown"}
