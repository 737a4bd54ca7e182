"""UEFI's variables: in the pool with all else that a machine has, and carried with it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.metadata import Role
from vmctl.hypervisor.volumes import StoredVolume

from .conftest import enter_host, pool_volumes

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]
VARIABLE = "/sys/firmware/efi/efivars/VmctlWord-7d1a3c6e-5a0b-4a43-9f0e-2f1f5c1b9d10"
MOUNT = "sudo -n mount -t efivarfs efivarfs /sys/firmware/efi/efivars"
# Its first four bytes say that it stays, and who can see it (UEFI Specification 2.10, 8.2).
WRITE = rf"printf '\007\000\000\000kept' | sudo -n dd of={VARIABLE} bs=64"


def test_a_variable_that_the_guest_set_moves_with_it(
    host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path
) -> None:
    vm = host.launch(make_spec(firmware="uefi", memory="256MiB"))
    vm.run(MOUNT, check=True)
    vm.run(WRITE, check=True)
    vm.stop(timeout=30)

    owned = vm._record().volume(Role.NVRAM)
    assert owned is not None
    assert owned.name in pool_volumes(host)
    assert vm._domain.firmware()[1].endswith(f"/{owned.name}")
    path = tmp_path / "moved.vmctl"
    assert vm.export(path, format="bundle") == ()
    (why,) = vm.export(tmp_path / "moved.ova", format="ova")
    assert "an OVA has no place" in why
    before = tmp_path / "before"
    host.volumes.download(f"{owned.pool}/{owned.name}", before)
    assert "VmctlWord".encode("utf-16-le") in before.read_bytes()
    vm.delete()
    assert owned.name not in pool_volumes(host)

    assert host.preview_import(path).warnings == ()
    copy = host.import_machine(path)
    brought = copy._record().volume(Role.NVRAM)
    assert brought is not None
    after = tmp_path / "after"
    host.volumes.download(f"{brought.pool}/{brought.name}", after)
    assert after.read_bytes() == before.read_bytes()
    copy.start()
    copy.wait()
    copy.run(MOUNT, check=True)
    assert copy.run(f"tail -c 4 {VARIABLE}", check=True).stdout == "kept"
    copy.delete()


def test_a_machine_whose_variables_are_in_libvirts_own_folder(
    private_host: private.PrivateHost, host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path
) -> None:
    """One that an earlier vmctl made."""
    firmware = {"type": "uefi", "tpm": host.facts.tpm}
    vm = host.create(make_spec(firmware=firmware, cloud_init=None))
    record = vm._record()
    volume = record.volume(Role.NVRAM)
    assert volume is not None
    # It was never started: there are none yet, and that is no loss.
    tpm = vm.export(tmp_path / "new.vmctl", format="bundle")
    assert tpm == ("what its TPM holds is not carried over: libvirt gives it to nobody",) * (
        host.facts.tpm
    )
    # The first one is of its MAC address, which it has still.
    _mac, *found = host.preview_import(tmp_path / "new.vmctl").warnings
    assert "there are none" in found[0]
    assert ["new one" in warning for warning in found[1:]] == [True] * len(tpm)

    own = f"/var/lib/libvirt/qemu/nvram/{vm.name}_VARS.fd"
    in_pool = vm._domain.firmware()[1]
    host._connection.raw.defineXML(vm.xml(inactive=True).replace(in_pool, own))
    kept = tuple(entry for entry in record.volumes if entry is not volume)
    vm._domain.update_record(volumes=kept)
    raw = vm._domain.raw()
    raw.create()
    raw.destroy()
    there = [*enter_host(private_host), "test", "-e", own]
    assert subprocess.run(there, check=False).returncode == 0
    why = vm.export(tmp_path / "old.vmctl", format="bundle")[0]
    assert why == (
        f"the firmware's variables are not carried over: they are at {own}, and not in a pool"
    )
    vm.delete()
    assert subprocess.run(there, check=False).returncode == 1


def test_variables_of_another_firmware_are_left_behind(
    host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path
) -> None:
    vm = host.create(make_spec(firmware="uefi", cloud_init=None))
    raw = vm._domain.raw()
    raw.create()
    raw.destroy()
    path = tmp_path / "moved.vmctl"
    vm.export(path, format="bundle")
    vm.delete()

    spec = host.preview_import(path).spec
    secure = spec.replace(firmware=spec.firmware.replace(secure_boot=True))
    seen: list[tuple[str, ...]] = []
    copy = host.import_machine(path, spec=secure, review=lambda found: seen.append(found.warnings))
    assert "they are OVMF_CODE_4M.fd's, and here it is OVMF_CODE_4M.ms.fd" in seen[0][-1]
    owned = copy._record().volume(Role.NVRAM)
    assert owned is not None
    assert not StoredVolume(host._connection, owned.pool, owned.name).exists()
    copy.delete()
