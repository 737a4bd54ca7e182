"""Machines in packages that VirtualBox and VMware wrote: they boot, and their data is there."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmctl

from .conftest import until_agent
from .packages import filled_in, pack, write_manifest, write_stream

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]

SAMPLES = Path(__file__).parents[1] / "unit" / "imaging" / "samples"
DATA = 8 << 20


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep and watch what an import may leave on the client."""
    folder = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        yield
    assert [path for path in folder.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def system(micro_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro guest's disk, raw."""
    path = tmp_path_factory.mktemp("system") / "raw"
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw"]
    subprocess.run([*command, micro_image, str(path)], check=True)
    return path


def data_disk(path: Path) -> str:
    """Make a disk with something at its beginning, in its middle and at its end."""
    with path.open("xb") as file:
        for place in (0, DATA // 2 - 3, DATA - 5000):
            file.seek(place)
            file.write(os.urandom(5000))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seen_inside(vm: vmctl.VM, **wanted: str) -> None:
    """Compare what the guest says of its machine, started for that, and remove it."""
    commands = {
        # Which of two comes first, sda or sdb, is chance; the port is not.
        "data": "sha256sum /dev/$(basename /sys/devices/pci*/*/ata2/host*/target*/*/block/sd*)"
        " | cut -d' ' -f1",
        "uefi": "test -d /sys/firmware/efi && echo yes || echo no",
        "mac": "cat /sys/class/net/e*/address",
        "nic": "basename $(readlink /sys/class/net/e*/device/driver)",
        "vcpus": "nproc",
        "controller": "basename $(readlink -f /sys/block/sda/device/../../../../driver)",
    }
    vm.start()
    try:
        until_agent(vm, seconds=240)
        found = {
            name: vm.run(["sh", "-c", commands[name]], check=True, via="agent").stdout.strip()
            for name in wanted
        }
        assert found == wanted
        memory = vm.run("awk '/MemTotal/ {print $2}' /proc/meminfo", check=True, via="agent")
        assert 150 << 10 < int(memory.stdout) <= 256 << 10
    finally:
        vm.delete()


def test_an_ova_of_virtualbox(host: vmctl.Host, system: Path, tmp_path: Path) -> None:
    """By UEFI, which finds the boot loader afresh; with VirtualBox's manifest of SHA-1."""
    names = [tmp_path / f"till-disk00{number}.vmdk" for number in (1, 2)]
    digest = data_disk(tmp_path / "raw")
    write_stream(system, names[0])
    write_stream(tmp_path / "raw", names[1])
    size = system.stat().st_size
    descriptor = tmp_path / "till.ovf"
    sample = filled_in(
        SAMPLES / "virtualbox.ovf",
        {
            "shop server": "till server",
            "shop-disk": "till-disk",
            "10737418240": str(size),
            "1073741824": str(DATA),
            "2048": "256",
            "2 virtual CPU": "1 virtual CPU",
            "<rasd:VirtualQuantity>2<": "<rasd:VirtualQuantity>1<",
        },
    )
    descriptor.write_text(sample, encoding="utf-8")
    manifest = write_manifest(descriptor, names, "sha1", "{kind} ({name}) = {digest}")
    path = tmp_path / "till.ova"
    pack(path, [descriptor, *names, manifest])

    found = host.preview_import(path)
    assert found.kind == "ova"
    assert "manifest" not in " ".join(found.warnings)
    vm = host.import_machine(path)
    assert vm.name == "till-server"
    assert [disk.capacity for disk in vm.info().disks if disk.device == "disk"] == [size, DATA]
    xml = vm.xml(inactive=True)
    assert xml.count("bus='sata'") == 3
    assert "OVMF" in xml
    seen_inside(
        vm,
        data=digest,
        uefi="yes",
        mac="08:00:27:1a:2b:3c",
        nic="e1000",
        vcpus="1",
        controller="ahci",
    )


def test_a_folder_of_vmware(host: vmctl.Host, system: Path, tmp_path: Path) -> None:
    """With a BIOS; a SCSI controller that there is not here becomes SATA, and that is said."""
    names = [tmp_path / f"build01-{number}.vmdk" for number in (1, 2)]
    digest = data_disk(tmp_path / "raw")
    write_stream(system, names[0])
    write_stream(tmp_path / "raw", names[1])
    (tmp_path / "build01-3.nvram").write_bytes(os.urandom(8684))
    sizes = [path.stat().st_size for path in names]
    descriptor = tmp_path / "build01.ovf"
    sample = filled_in(
        SAMPLES / "vmware-linux.ovf",
        {
            'ovf:size="2103296"': f'ovf:size="{sizes[0]}"',
            'ovf:size="71680"': f'ovf:size="{sizes[1]}"',
            'ovf:capacity="20" ovf:capacityAllocationUnits="byte * 2^30"': (
                f'ovf:capacity="{system.stat().st_size >> 20}" '
                'ovf:capacityAllocationUnits="byte * 2^20"'
            ),
            'ovf:capacity="2" ovf:capacityAllocationUnits="byte * 2^30"': (
                f'ovf:capacity="{DATA >> 20}" ovf:capacityAllocationUnits="byte * 2^20"'
            ),
            "1024": "256",
        },
    )
    descriptor.write_text(sample, encoding="utf-8")
    others = [*names, tmp_path / "build01-3.nvram"]
    write_manifest(descriptor, others, "sha256", "{kind}({name})= {digest}")

    warnings = " ".join(host.preview_import(descriptor).warnings)
    assert "manifest" not in warnings
    assert "disks[0] was on lsilogic scsi, which there is not here; it is on sata" in warnings
    vm = host.import_machine(descriptor)
    assert vm.name == "build01"
    assert vm.xml(inactive=True).count("bus='sata'") == 3
    seen_inside(
        vm,
        data=digest,
        uefi="no",
        mac="00:50:56:9a:2b:3c",
        nic="e1000",
        vcpus="1",
        controller="ahci",
    )
