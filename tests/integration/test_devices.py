"""Drives, firmware and kernels that a spec brings along, as the guest finds them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl.hypervisor.events import Signal
from vmctl.render.iso import build_iso
from vmctl.render.volume import render_volume

from .boot_sector import saying
from .conftest import pool_volumes

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]


@pytest.fixture
def foreign_volume(host: vmctl.Host) -> Iterator[str]:
    """A volume that somebody else keeps in the pool."""
    pool = host._connection.raw.storagePoolLookupByName("default")
    volume = pool.createXML(render_volume("theirs.qcow2", capacity=8 << 20, format="qcow2"))
    try:
        yield volume.name()
    finally:
        volume.delete(0)


def test_an_existing_volume_is_used_and_stays(
    host: vmctl.Host, make_spec: SpecMaker, foreign_volume: str
) -> None:
    disks = [{}, {"volume": foreign_volume, "serial": "theirs"}]
    vm = host.launch(make_spec(disks=disks))
    size = vm.run("cat /sys/block/vdb/size /sys/block/vdb/serial", check=True).stdout.split()
    assert size == [str((8 << 20) // 512), "theirs"]
    vm.run("echo written | sudo -n dd of=/dev/vdb conv=sync,fsync 2>/dev/null", check=True)
    vm.delete()
    assert foreign_volume in pool_volumes(host)

    again = host.launch(make_spec(disks=disks))
    assert again.run("sudo -n head -c 7 /dev/vdb", check=True).stdout == "written"
    again.delete()


def test_a_blank_disk_a_read_only_one_and_a_cd(
    host: vmctl.Host, make_spec: SpecMaker, foreign_volume: str, tmp_path: Path
) -> None:
    disc = tmp_path / "disc.iso"
    disc.write_bytes(build_iso({"readme": b"on the disc\n"}))
    vm = host.launch(
        make_spec(
            disks=[
                {},
                {"size": "5MiB", "bus": "scsi", "serial": "blank"},
                {"volume": foreign_volume, "bus": "virtio", "read_only": True},
            ],
            cdroms=[{"path": str(disc)}],
        )
    )
    names = vm.run("cd /sys/block; grep -l . */size", check=True).stdout
    assert "sda/size" in names
    assert vm.run("cat /sys/block/sda/size", check=True).stdout.strip() == str((5 << 20) // 512)
    assert vm.run("cat /sys/block/vdb/ro", check=True).stdout.strip() == "1"
    # The seed's drive is empty by now; this one is not.
    said = vm.run(
        "for drive in /dev/sr*; do "
        "sudo -n mount -r $drive /mnt 2>/dev/null && cat /mnt/readme; done"
    )
    assert said.stdout == "on the disc\n"
    assert [disk.device for disk in vm.info().disks].count("cdrom") == 2
    vm.delete()


def test_a_kernel_of_ones_own(
    host: vmctl.Host, make_spec: SpecMaker, micro_image: str, tmp_path: Path
) -> None:
    """The micro guest's own kernel, booted without its boot loader."""
    first = host.launch(make_spec())
    for name in ("vmlinuz", "initrd.img"):
        data = first.run(f"sudo -n base64 /boot/{name}", check=True).stdout
        (tmp_path / f"{name}.base64").write_text(data)
        with (tmp_path / name).open("wb") as file:
            subprocess.run(
                ["base64", "-d", str(tmp_path / f"{name}.base64")], stdout=file, check=True
            )
    first.delete()
    vm = host.launch(
        make_spec(
            boot={
                "kernel": str(tmp_path / "vmlinuz"),
                "initrd": str(tmp_path / "initrd.img"),
                "cmdline": "console=ttyS0 loglevel=3 no_timer_check own.word=here",
            }
        )
    )
    assert "own.word=here" in vm.run("cat /proc/cmdline", check=True).stdout
    vm.delete()
    assert not [name for name in pool_volumes(host) if "kernel" in name or "initrd" in name]


def test_a_floppy_is_booted(host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path) -> None:
    floppy = tmp_path / "boot.img"
    floppy.write_bytes(saying("from the floppy").ljust(1440 * 1024, b"\0"))
    spec = vmctl.VMSpec.model_validate(
        {
            "name": make_spec().name,
            "profile": "legacy",
            "memory": "32MiB",
            "boot": {"order": ["floppy"]},
            "floppies": [{"path": str(floppy)}],
            "nics": [],
        }
    )
    vm = host.launch(spec)
    said = Signal().wait_for(
        lambda: True if "from the floppy" in vm.console_log() else None,
        deadline=time.monotonic() + 60,
    )
    assert said, vm.console_log()
    vm.delete()


@pytest.mark.skipif(shutil.which("swtpm") is None, reason="an emulated TPM needs swtpm")
def test_secure_boot_and_a_tpm(host: vmctl.Host, make_spec: SpecMaker) -> None:
    firmware = {"type": "uefi", "secure_boot": True, "tpm": True}
    vm = host.launch(make_spec(firmware=firmware, memory="512MiB"))
    assert vm.run("cat /sys/class/tpm/tpm0/tpm_version_major", check=True).stdout == "2\n"
    assert "Secure boot enabled" in vm.run("sudo -n dmesg", check=True).stdout
    nvram = vm.xml()
    assert "<nvram" in nvram
    vm.delete()
