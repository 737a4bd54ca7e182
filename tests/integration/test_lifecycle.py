"""The micro guest through its life, seen from both sides: libvirt's and its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

import pytest
from lxml import etree

import vmctl
from vmctl.errors import NotFoundError, WrongStateError
from vmctl.guest.identity import make_key
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal

from .conftest import pool_volumes

pytestmark = pytest.mark.timeout(300)

SpecMaker = Callable[..., vmctl.VMSpec]


def domain_state(host: vmctl.Host, vm: vmctl.VM) -> int:
    """Return libvirt's own answer, past vmctl."""
    state: int = host._connection.raw.lookupByName(vm.name).state()[0]
    return state


RUNNING, PAUSED, SHUT_OFF = 1, 3, 5


def test_launch_returns_a_provisioned_guest(host: vmctl.Host, shared_vm: vmctl.VM) -> None:
    assert domain_state(host, shared_vm) == RUNNING
    assert shared_vm.run("hostname", check=True).stdout.strip() == "shared-guest"
    assert shared_vm.run(["cat", "/etc/motto"]).stdout == "semper eadem\n"
    assert shared_vm.run(["cat", "/var/lib/ran"]).stdout == "done\n"
    assert shared_vm.run(["id", "-un"]).stdout.strip() == "admin"
    assert shared_vm.run(["sudo", "-n", "id", "-u"]).stdout.strip() == "0"


def test_keys_from_files_are_in_the_guest(
    host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path
) -> None:
    mine = make_key()
    file = tmp_path / "mine.pub"
    file.write_text(f"{mine.public} somebody\n")
    vm = host.launch(
        make_spec(cloud_init={"users": [{"name": "ada", "ssh_key_files": [str(file)]}]})
    )
    keys = vm.run("cat ~/.ssh/authorized_keys", check=True).stdout
    assert f"{mine.public} somebody" in keys
    assert host.key.public.split()[1] in keys
    vm.delete()


def test_templates_of_ones_own(
    private_host: private.PrivateHost, make_spec: SpecMaker, tmp_path: Path
) -> None:
    devices = tmp_path / "domain_templates" / "devices"
    devices.mkdir(parents=True)
    (devices / "rng.xml.j2").write_text(
        "    <rng model='virtio'><backend model='builtin'/></rng>\n"
    )
    with vmctl.connect(f"private:{private_host.name}", templates=tmp_path) as other:
        vm = other.create(make_spec())
        assert "<backend model='builtin'/>" in vm.xml()
        vm.delete()


def test_its_host_key_is_the_one_vmctl_made(shared_vm: vmctl.VM) -> None:
    inside = shared_vm.run("cat /etc/ssh/ssh_host_ed25519_key.pub", check=True).stdout.split()
    assert inside[:2] == shared_vm.info().host_key.split()[:2]


def test_its_seed_is_gone_from_drive_pool_and_record(host: vmctl.Host, shared_vm: vmctl.VM) -> None:
    assert not [name for name in pool_volumes(host) if shared_vm.uuid in name and "seed" in name]
    for inactive in (False, True):
        assert "seed.iso" not in shared_vm.xml(inactive=inactive)
    # The drive is empty, and the guest can't read the secrets again.
    assert shared_vm.run("sudo -n head -c 1 /dev/sr0").exit_status != 0


def test_run_passes_status_and_both_outputs(shared_vm: vmctl.VM) -> None:
    done = shared_vm.run("echo out; echo err >&2; exit 7")
    assert (done.exit_status, done.stdout, done.stderr, done.via) == (7, "out\n", "err\n", "ssh")


@pytest.mark.parametrize("via", ["ssh", "agent"])
def test_a_command_that_a_signal_ends_has_the_status_of_a_shell(
    shared_vm: vmctl.VM, via: Literal["ssh", "agent"]
) -> None:
    done = shared_vm.run("echo before; kill -KILL $$", via=via)
    assert (done.exit_status, done.stdout, done.via) == (137, "before\n", via)


def test_run_quotes_words_and_passes_stdin(shared_vm: vmctl.VM) -> None:
    assert shared_vm.run(["echo", "a b; $HOME 'x'"]).stdout == "a b; $HOME 'x'\n"
    big = b"0123456789abcdef" * 65536
    assert shared_vm.run("wc -c", stdin=big).stdout.strip() == str(len(big))


def test_run_reads_large_outputs_on_both_streams(shared_vm: vmctl.VM) -> None:
    done = shared_vm.run("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", timeout=120)
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)


def test_run_with_a_timeout_ends(shared_vm: vmctl.VM) -> None:
    with pytest.raises(vmctl.WaitTimeoutError, match="did not end within 1 s") as late:
        shared_vm.run("sleep 600", timeout=1)
    assert "may run on in the guest" in late.value.hint
    assert shared_vm.run("killall sleep").exit_status == 0
    assert shared_vm.run("true").exit_status == 0


def test_run_with_check_raises_with_the_output(shared_vm: vmctl.VM) -> None:
    with pytest.raises(vmctl.CommandFailedError) as caught:
        shared_vm.run("echo because >&2; exit 3", check=True)
    assert caught.value.exit_status == 3
    assert "because" in caught.value.details


def test_info_and_list_say_what_libvirt_says(host: vmctl.Host, shared_vm: vmctl.VM) -> None:
    info = shared_vm.info()
    raw = host._connection.raw.lookupByName(shared_vm.name)
    assert (info.uuid, info.state, info.phase) == (raw.UUIDString(), "running", "ready")
    assert info.memory == 192 << 20
    assert info.labels == {"role": "test"}
    assert info.disks[0].format == "qcow2"
    (line,) = [entry for entry in host.list(details=True) if entry.name == shared_vm.name]
    assert (line.state, line.phase, line.labels) == ("running", "ready", {"role": "test"})


def test_info_has_the_files_of_a_disk_and_the_time_of_the_start(
    host: vmctl.Host, shared_vm: vmctl.VM
) -> None:
    info = shared_vm.info()
    root = etree.fromstring(shared_vm.xml())
    disk = info.disks[0]
    files = root.xpath(f"devices/disk[target/@dev='{disk.target}']//source/@file")
    assert [layer.path for layer in disk.chain] == files
    assert [layer.format for layer in disk.chain] == ["qcow2", "qcow2"]
    own, image = disk.chain
    assert (disk.capacity, disk.allocation, disk.shared) == (
        own.capacity,
        own.allocation,
        image.allocation,
    )
    sectors = int(shared_vm.run("cat /sys/block/vda/size", check=True).stdout)
    assert disk.capacity == sectors * 512
    up = float(shared_vm.run("cut -d' ' -f1 /proc/uptime", check=True).stdout)
    assert info.uptime is not None
    # Both are whole seconds, and the guest's clock begins when its kernel does.
    assert info.uptime > up - 2
    assert datetime.fromisoformat(info.started) >= datetime.fromisoformat(info.created)
    assert (info.state_reason, info.saved, info.graphics) == ("booted", False, ())


def test_console_log_has_the_guests_boot(shared_vm: vmctl.VM) -> None:
    assert "micro: ready" in shared_vm.console_log()


def test_pause_and_resume(host: vmctl.Host, shared_vm: vmctl.VM) -> None:
    shared_vm.pause()
    assert domain_state(host, shared_vm) == PAUSED
    shared_vm.pause()
    shared_vm.resume()
    assert domain_state(host, shared_vm) == RUNNING
    shared_vm.resume()
    assert shared_vm.run("true").exit_status == 0


@pytest.mark.usefixtures("nothing_left")
def test_stop_start_restart_and_delete(host: vmctl.Host, make_spec: SpecMaker) -> None:
    vm = host.launch(make_spec())
    vm.run("echo kept | sudo -n tee /etc/kept && sync", check=True)
    boot = vm.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout

    vm.stop()
    assert domain_state(host, vm) == SHUT_OFF
    vm.stop()
    with pytest.raises(WrongStateError) as caught:
        vm.pause()
    assert caught.value.state == "shut off"
    with pytest.raises(WrongStateError):
        vm.wait()
    with pytest.raises(WrongStateError):
        vm.run("true")

    vm.start()
    vm.start()
    vm.wait()
    assert vm.run("cat /etc/kept", check=True).stdout == "kept\n"
    assert vm.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout != boot

    vm.restart()
    vm.wait()
    assert vm.run("cat /etc/kept", check=True).stdout == "kept\n"

    vm.delete()
    with pytest.raises(NotFoundError):
        host.get(vm.name)
    with pytest.raises(NotFoundError):
        vm.start()
    assert not [name for name in pool_volumes(host) if vm.uuid in name]


@pytest.mark.usefixtures("nothing_left")
def test_create_start_wait(host: vmctl.Host, make_spec: SpecMaker) -> None:
    vm = host.create(make_spec(autostart=True))
    assert domain_state(host, vm) == SHUT_OFF
    info = vm.info()
    assert (info.phase, info.autostart) == ("provisioning", True)
    assert host.gc() == []
    vm.start()
    vm.wait()
    assert vm.info().phase == "ready"
    assert vm.run("true").exit_status == 0
    vm.delete()


@pytest.mark.usefixtures("nothing_left")
def test_a_guest_that_does_not_stop_is_ended_only_by_force(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    vm = host.launch(make_spec(cloud_init=None, agent=False), wait=False)
    # Its boot loader is not there yet to hear the button.
    vm.pause()
    vm.resume()
    with pytest.raises(vmctl.WaitTimeoutError, match="did not shut down within 0 s"):
        vm.stop(timeout=0)
    assert domain_state(host, vm) == RUNNING
    vm.stop(timeout=0, force=True)
    assert domain_state(host, vm) == SHUT_OFF
    vm.delete()


@pytest.mark.usefixtures("nothing_left")
def test_a_guest_without_cloud_init_is_reached_by_its_agent(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    vm = host.launch(make_spec(cloud_init=None))
    assert vm.info().phase == "ready"
    signal_deadline = 60
    done = _until_agent(vm, signal_deadline)
    assert (done.stdout, done.via) == ("0\n", "agent")
    assert vm.run("echo err >&2; exit 5").exit_status == 5
    vm.delete()


def _until_agent(vm: vmctl.VM, seconds: float) -> vmctl.CompletedCommand:
    """Run a command by the agent as soon as it answers."""

    def answer() -> vmctl.CompletedCommand | None:
        try:
            return vm.run(["id", "-u"])
        except vmctl.GuestUnreachableError:
            return None

    deadline = time.monotonic() + seconds
    done = Signal().wait_for(answer, deadline=deadline, recheck=0.5)
    assert done is not None
    return done


@pytest.mark.usefixtures("nothing_left")
def test_the_second_launch_shares_the_image(host: vmctl.Host, make_spec: SpecMaker) -> None:
    first = host.launch(make_spec(), wait=False)
    bases = {name for name in pool_volumes(host) if name.startswith("sha256-")}
    second = host.launch(make_spec(), wait=False)
    assert {name for name in pool_volumes(host) if name.startswith("sha256-")} == bases
    for vm in (first, second):
        assert sum(base in vm.xml() for base in bases) == 1
        vm.delete()
