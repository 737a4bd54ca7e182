"""Waiting for a guest: where its address comes from, what ends the waiting, and what doesn't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import vmctl
from vmctl.guest.readiness import Deadlines
from vmctl.hypervisor import private

from .boot_sector import saying

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]


def secret_address(address: str, mac: str) -> dict[str, object]:
    """Return a network configuration that only the guest knows of: not the spec, and no DHCP."""
    ethernet = {
        "match": {"macaddress": mac},
        "set-name": "nic0",
        "dhcp4": False,
        "addresses": [f"{address}/24"],
    }
    return {"version": 2, "ethernets": {"nic0": ethernet}}


@pytest.mark.parametrize("source", ["agent", "arp"])
def test_an_address_that_only_the_guest_knew(
    host: vmctl.Host, make_spec: SpecMaker, source: str
) -> None:
    mac = {"agent": "52:54:00:0a:0b:01", "arp": "52:54:00:0a:0b:02"}[source]
    address = {"agent": "192.168.122.181", "arp": "192.168.122.182"}[source]
    spec = make_spec(
        agent=source == "agent",
        nics=[{"network": "default", "mac": mac}],
        cloud_init={
            "network_config": secret_address(address, mac),
            # By this the host hears of the guest; nobody else tells it.
            "runcmd": ["ping -c 1 -w 60 192.168.122.1"],
        },
    )
    vm = host.launch(spec)
    info = vm.info()
    assert info.addresses[0] == address
    assert info.sources[source] == address
    assert {info.sources["lease"], info.sources["spec"]} == {"no address"}
    assert f"{address}/24" in vm.run("/sbin/ip -4 addr", check=True).stdout
    vm.delete()


def test_no_address_in_time(host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path) -> None:
    """Every source is asked, and the error says what each of them said."""
    image = bootable(tmp_path, "nobody is at home")
    spec = make_spec(image=str(image), nics=[{"network": "default"}])
    with pytest.raises(vmctl.WaitTimeoutError) as caught:
        host.launch(spec, deadlines=Deadlines(address=4))
    assert caught.value.phase == "address"
    lines = caught.value.details.splitlines()
    assert {line.partition(":")[0] for line in lines} >= {"spec", "lease", "agent", "arp"}
    assert "nobody is at home" in caught.value.details


def test_cloud_init_that_does_not_end_in_time(host: vmctl.Host, make_spec: SpecMaker) -> None:
    spec = make_spec(cloud_init={"runcmd": ["sleep 600"]})
    with pytest.raises(vmctl.WaitTimeoutError) as caught:
        host.launch(spec, deadlines=Deadlines(cloud_init=3))
    assert (caught.value.phase, caught.value.exit_code) == ("cloud-init", 6)
    assert "the end of its console:\n" in caught.value.details


def bootable(folder: Path, text: str) -> Path:
    """Return an image whose boot sector says a text and stops."""
    raw, image = folder / "boot.raw", folder / "boot.qcow2"
    raw.write_bytes(saying(text).ljust(1 << 20, b"\0"))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*convert, str(raw), str(image)], check=True)
    return image


def test_a_guest_that_never_boots_shows_its_console(
    host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path
) -> None:
    image = bootable(tmp_path, "this is as far as I get")
    with pytest.raises(vmctl.WaitTimeoutError) as caught:
        host.launch(make_spec(image=str(image)), deadlines=Deadlines(ssh=5))
    assert caught.value.phase == "ssh"
    assert "the end of its console:\n" in caught.value.details
    assert "this is as far as I get" in caught.value.details


def test_a_guest_that_goes_off_while_cloud_init_runs(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec(
        nics=[{"network": "default"}],
        cloud_init={"runcmd": ["echo going; sync; poweroff -f; sleep 600"]},
    )
    with pytest.raises(vmctl.GuestError, match="stopped") as caught:
        host.launch(spec)
    assert "console" in caught.value.details


def _libvirtd_of(private_host: private.PrivateHost) -> int:
    """Return the pid of the host's libvirtd, as this machine sees it."""
    first = private_host._record.init
    assert first is not None
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    return next(
        int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "libvirtd"
    )


def test_libvirtd_restarts_while_a_guest_is_waited_for(
    private_host: private.PrivateHost, host: vmctl.Host, make_spec: SpecMaker
) -> None:
    killed: list[int] = []

    def kill_it(progress: vmctl.Progress) -> None:
        if (progress.phase, progress.state) == ("ssh", "begin") and not killed:
            killed.append(_libvirtd_of(private_host))
            os.kill(killed[0], signal.SIGKILL)

    vm = host.launch(make_spec(), progress=kill_it)
    assert killed != [_libvirtd_of(private_host)]
    assert vm.run("true").exit_status == 0
    assert vm.info().phase == "ready"
    vm.delete()


def test_libvirtd_restarts_while_a_launch_is_undone(
    private_host: private.PrivateHost, host: vmctl.Host, make_spec: SpecMaker
) -> None:
    def kill_it(progress: vmctl.Progress) -> None:
        if (progress.phase, progress.state) == ("undo", "begin"):
            os.kill(_libvirtd_of(private_host), signal.SIGKILL)

    spec = make_spec(cloud_init={"runcmd": ["false"]})
    with pytest.raises(vmctl.ProvisioningError):
        host.launch(spec, progress=kill_it)
    with pytest.raises(vmctl.NotFoundError):
        host.get(spec.name)


def test_a_host_that_is_gone_for_good_is_not_waited_for(
    client_home: Path, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmctl.guest.readiness._OUTAGE_SECONDS", 1.0)
    monkeypatch.setattr("vmctl.hypervisor.connection._OUTAGE_SECONDS", 1.0)
    private.start("gone", tether=True)

    def stop_it(progress: vmctl.Progress) -> None:
        if (progress.phase, progress.state) == ("ssh", "begin"):
            private.stop("gone", force=True)

    with vmctl.connect("private:gone") as other, pytest.raises(vmctl.RollbackError) as caught:
        other.launch(make_spec(), progress=stop_it)
    assert isinstance(caught.value.__cause__, vmctl.HostUnavailableError)
    assert "vmctl gc" in caught.value.hint


_DYING_CLIENT = """\
import os, signal, sys, vmctl
def die(progress):
    if (progress.phase, progress.state) == ("ssh", "begin"):
        os.kill(os.getpid(), signal.SIGKILL)
with vmctl.connect(sys.argv[1]) as host:
    host.launch(vmctl.VMSpec.from_yaml(sys.stdin.read()), progress=die)
"""


def test_a_machine_that_somebody_goes_on_with_is_no_garbage(
    private_host: private.PrivateHost, host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec()
    done = subprocess.run(
        [sys.executable, "-c", _DYING_CLIENT, f"private:{private_host.name}"],
        input=spec.to_yaml(),
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert [entry.name for entry in host.gc(dry_run=True)] == [spec.name]
    vm = host.get(spec.name)
    vm.wait()
    assert host.gc() == []
    assert vm.info().phase == "ready"
    assert vm.run("true").exit_status == 0
    vm.delete()


def test_a_callback_that_fails_does_not_keep_anything_from_being_undone(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    def fail(progress: vmctl.Progress) -> None:
        if progress.phase in {"start", "undo"}:
            raise BrokenPipeError

    spec = make_spec()
    with pytest.raises(BrokenPipeError):
        host.launch(spec, progress=fail)
    with pytest.raises(vmctl.NotFoundError):
        host.get(spec.name)


def test_a_callback_that_fails_ends_a_command(host: vmctl.Host, make_spec: SpecMaker) -> None:
    vm = host.launch(make_spec())

    def fail(_piece: bytes) -> None:
        raise RuntimeError("no more of this")

    with pytest.raises(RuntimeError, match="no more of this"):
        vm.run("yes; sleep 600", on_stdout=fail, timeout=60)
    assert vm.run("true").exit_status == 0
    assert not [t.name for t in threading.enumerate() if t.name.startswith("vmctl-ssh")]
    vm.delete()
