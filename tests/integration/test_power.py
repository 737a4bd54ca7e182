"""One guest stopped, reset, saved and renamed: seen by libvirt, and from the inside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl.errors import (
    HypervisorError,
    WrongStateError,
)
from vmctl.guest.agent import Agent
from vmctl.hypervisor import private

from .conftest import (
    SpecMaker,
    boots,
    enter_host,
    in_a_moment,
    libvirtd_pid,
    libvirts_state,
    until_agent,
    until_booted,
)

pytestmark = pytest.mark.timeout(300)

RUNNING, PAUSED, SHUT_OFF = 1, 3, 5
# libvirt's folder for managed saves, inside the private host's own mount namespace.
SAVES = "/var/lib/libvirt/qemu/save"


@pytest.fixture(scope="module")
def vm(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    """A guest without SSH, so that its agent is the way in; each test leaves it running."""
    spec = vmctl.VMSpec.model_validate(
        {
            "name": f"p{uuid.uuid4().hex[:8]}",
            "image": micro_image,
            "memory": "192MiB",
            "nics": [],
            "on_poweroff": "restart",
            "cloud_init": None,
        }
    )
    machine = host.launch(spec)
    try:
        until_agent(machine)
        yield machine
    finally:
        machine.delete()


def command_line(host: vmctl.Host, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmctl.cli.main", "--uri", host.uri, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_guest_with_an_agent_is_stopped_by_it(host: vmctl.Host, vm: vmctl.VM) -> None:
    before = until_agent(vm)
    told: list[str] = []
    report = vm.stop(progress=lambda entry: told.append(entry.detail))
    assert libvirts_state(host, vm) == SHUT_OFF
    assert (report.ended_by, report.saved) == ("agent", False)
    (step,) = report.steps
    assert (step.how, step.said) == ("agent", "shut down")
    assert 0 < step.seconds <= report.seconds < 20
    assert "asking its agent" in told
    assert vm.info().state_reason == "shutdown"

    again = vm.stop()
    assert (again.ended_by, again.steps) == ("was off", ())
    assert vm.start().how == "booted"
    assert vm.start().how == "was running"
    until_agent(vm)
    assert until_agent(vm) != before


def test_a_power_off_of_the_guests_own_does_what_the_spec_says(
    host: vmctl.Host, vm: vmctl.VM
) -> None:
    count = boots(vm)
    # It ends the agent that was asked.
    in_a_moment(vm, "poweroff")
    until_booted(host, vm, count + 1)
    assert libvirts_state(host, vm) == RUNNING
    start_afresh(vm)


def silence(vm: vmctl.VM, programs: str) -> None:
    """Stop programs of the guest's, its agent among them, a moment after that has answered."""
    in_a_moment(vm, f"killall -STOP {programs}")
    deadline = time.monotonic() + 60
    while Agent(vm._domain).answers():
        assert time.monotonic() < deadline


def test_the_ladder_with_a_guest_that_does_not_listen(host: vmctl.Host, vm: vmctl.VM) -> None:
    # Its agent hangs.
    silence(vm, "qemu-ga")
    report = vm.stop(timeout=60, deadlines=vmctl.StopDeadlines(agent=4))
    assert report.ended_by == "acpi"
    assert [step.how for step in report.steps] == ["agent", "acpi"]
    assert report.steps[0].said != "shut down"
    assert libvirts_state(host, vm) == SHUT_OFF
    vm.start()
    until_agent(vm)

    # And nobody hears its power button. One that was paused is paused again when that fails.
    silence(vm, "qemu-ga acpid")
    vm.pause()
    with pytest.raises(vmctl.WaitTimeoutError, match="did not shut down within 4 s") as caught:
        vm.stop(timeout=4, deadlines=vmctl.StopDeadlines(acpi=1))
    assert caught.value.phase == "shutdown"
    lines = caught.value.details.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["resume", "agent", "acpi"]
    assert "pressed once, to no avail" in lines[2]
    assert libvirts_state(host, vm) == PAUSED
    assert "<on_poweroff>restart<" in vm.xml()

    done = command_line(host, "stop", "--timeout", "3", vm.name, "--format", "json")
    assert done.returncode == 6, done.stderr
    assert libvirts_state(host, vm) == PAUSED

    done = command_line(host, "stop", "--timeout", "3", "--force", vm.name, "--format", "json")
    (entry,) = json.loads(done.stdout)
    assert entry["state"] == "shut off"
    assert entry["stopped"]["ended_by"] == "force"
    hows = [step["how"] for step in entry["stopped"]["steps"]]
    assert hows == ["resume", "agent", "acpi", "force"]
    assert vm.info().state_reason == "destroyed"
    vm.start()
    until_agent(vm)


def test_reset_boots_the_guest_anew(host: vmctl.Host, vm: vmctl.VM) -> None:
    count = boots(vm)
    vm.reset()
    until_booted(host, vm, count + 1)
    assert libvirts_state(host, vm) == RUNNING
    # One that is paused stays so.
    vm.pause()
    vm.reset()
    assert libvirts_state(host, vm) == PAUSED
    start_afresh(vm)


def start_afresh(vm: vmctl.VM) -> None:
    """Give the guest a QEMU of its own again, and so its agent."""
    report = vm.restart(timeout=0, force=True)
    assert report.ended_by == "force"
    until_agent(vm)


def test_an_nmi_reaches_the_guest(vm: vmctl.VM) -> None:
    count = "awk '/NMI:/ { print $2 }' /proc/interrupts"
    before = int(vm.run(count, check=True).stdout)
    vm.nmi()
    seen = vm.run(f'until [ "$({count})" -gt {before} ]; do :; done; dmesg', timeout=60)
    assert "NMI" in seen.stdout


def test_autostart_is_set_here_and_there(host: vmctl.Host, vm: vmctl.VM) -> None:
    raw = host._connection.raw.lookupByUUIDString(vm.uuid)
    assert (vm.autostart, raw.autostart()) == (False, 0)
    vm.set_autostart(True)
    vm.set_autostart(True)
    assert (vm.autostart, raw.autostart()) == (True, 1)
    assert vm._record().spec["autostart"] is True
    done = command_line(host, "autostart", "--off", vm.name, "--format", "json")
    assert json.loads(done.stdout)[0]["autostart"] is False
    assert (vm.autostart, raw.autostart()) == (False, 0)


def count_in_memory(vm: vmctl.VM) -> None:
    """Start a process whose whole state is in memory: it counts, and answers with its count."""
    vm.run(
        "cd /dev/shm; sh -c "
        "'n=0; while :; do n=$((n+1)); echo $n > new; mv new count; sleep 0.2; done' "
        "</dev/null >/dev/null 2>&1 & echo $! > /dev/shm/pid; "
        "until [ -e /dev/shm/count ]; do sleep 0.1; done",
        timeout=60,
        check=True,
    )


def test_a_saved_machine_goes_on_where_it_was(host: vmctl.Host, vm: vmctl.VM) -> None:
    count_in_memory(vm)
    boot, before = until_agent(vm), int(vm.run("cat /dev/shm/count", check=True).stdout)
    told: list[str] = []
    # So that its clock is behind by far more than the save took.
    vm.run("date -s @1700000000", check=True)
    vm.save(progress=lambda entry: told.append(f"{entry.phase} {entry.state}"))
    assert told[0] == "save begin"
    assert told[-1] == "save end"
    assert libvirts_state(host, vm) == SHUT_OFF
    info = vm.info()
    assert (info.state, info.state_reason, info.saved) == ("shut off", "saved", True)
    assert {entry.uuid for entry in host.list() if entry.saved} == {vm.uuid}
    vm.save()

    # Nothing may change under a guest that goes on from its memory.
    for change in (
        lambda: vm.snapshots.create("no"),
        lambda: vm.rename("other"),
        lambda: vm.export("no.qcow2"),
    ):
        with pytest.raises(WrongStateError, match="has a saved state") as caught:
            change()
        assert caught.value.state == "saved"
    report = vm.stop()
    assert (report.ended_by, report.saved) == ("was off", True)

    report_of_start = vm.start(progress=lambda entry: told.append(entry.detail))
    assert (report_of_start.how, report_of_start.clock) == ("restored", "set")
    assert "going on from its saved state" in told
    assert until_agent(vm) == boot
    first = int(vm.run("cat /dev/shm/count", check=True).stdout)
    assert first >= before
    vm.run(f"while [ $(cat /dev/shm/count) -le {first} ]; do :; done", timeout=60, check=True)
    assert abs(int(vm.run("date +%s", check=True).stdout) - time.time()) < 30
    assert not any(entry.saved for entry in host.list())
    assert (vm.info().state_reason, vm.info().saved) == ("restored", False)


def test_a_machine_saved_while_paused_runs_when_it_is_started(
    host: vmctl.Host, vm: vmctl.VM
) -> None:
    boot = until_agent(vm)
    vm.pause()
    vm.save()
    done = command_line(host, "start", vm.name, "--format", "json")
    (entry,) = json.loads(done.stdout)
    assert (entry["state"], entry["started"]["how"]) == ("running", "restored")
    assert until_agent(vm) == boot


def test_a_saved_state_that_qemu_refuses_is_kept_until_it_is_given_up(
    host: vmctl.Host, vm: vmctl.VM, private_host: private.PrivateHost
) -> None:
    boot = until_agent(vm)
    vm.save()
    # Behind the header, where QEMU's own stream is.
    file = f"{SAVES}/{vm.name}.save"
    spoil = ["dd", "if=/dev/zero", f"of={file}", "bs=4096", "seek=16", "count=64", "conv=notrunc"]
    subprocess.run([*enter_host(private_host), *spoil], check=True, capture_output=True)
    with pytest.raises(HypervisorError, match="can't go on from its saved state") as caught:
        vm.start()
    assert "--discard-saved" in caught.value.hint
    assert libvirts_state(host, vm) == SHUT_OFF
    assert vm.saved
    done = command_line(host, "start", "--discard-saved", vm.name, "--format", "json")
    assert json.loads(done.stdout)[0]["started"]["how"] == "booted"
    assert not vm.saved
    until_agent(vm)
    assert until_agent(vm) != boot


def test_a_saved_state_can_be_given_up(host: vmctl.Host, vm: vmctl.VM) -> None:
    boot = until_agent(vm)
    vm.save()
    assert vm.discard_saved() is True
    assert vm.discard_saved() is False
    assert not vm.saved
    assert vm.start().how == "booted"
    until_agent(vm)
    assert until_agent(vm) != boot


def test_a_saved_machine_keeps_the_devices_that_its_memory_knows(
    host: vmctl.Host, vm: vmctl.VM
) -> None:
    disk = vm.disks.attach(vmctl.DiskSpec(size="8MiB"))
    boot = until_agent(vm)
    vm.save()
    before = vm.xml(inactive=True), vm._domain.record()
    volume = "default/" + disk.source.rpartition("/")[2]
    for change in (
        lambda: vm.disks.detach(disk.target, delete=True),
        lambda: vm.disks.attach(vmctl.DiskSpec(size="8MiB")),
        lambda: vm.disks.resize(disk.target, "16MiB"),
        lambda: host.volumes.grow(volume, "16MiB"),
        lambda: vm.set_vcpus(2),
        lambda: vm.apply(vm.with_values({"memory": "1GiB", "labels.a": "b"})),
        lambda: vm.apply(vm.with_values({"on_crash": "restart"})),
    ):
        with pytest.raises(WrongStateError, match="has a saved state") as caught:
            change()
        assert "discard-saved" in caught.value.hint
    assert (vm.xml(inactive=True), vm._domain.record()) == before
    (difference,) = vm.compare({"memory": "1GiB"}).differences
    assert "has a saved state" in difference.why
    shown = command_line(host, "set", vm.name, "memory=1GiB", "--dry-run")
    assert "has a saved state" in shown.stderr
    vm.apply(vm.with_values({"labels.a": "b"}))
    assert vm.start().how == "restored"
    assert until_agent(vm) == boot
    assert vm.info().labels == {"a": "b"}
    vm.disks.detach(disk.target, delete=True)


def test_libvirtd_that_dies_in_the_middle_of_a_save(
    host: vmctl.Host, vm: vmctl.VM, private_host: private.PrivateHost
) -> None:
    """It is saved, or it runs on; nothing between."""
    boot = until_agent(vm)
    fill_memory(vm)
    # A save that had ended before libvirtd was killed shows nothing: then another one is met.
    for _ in range(10):
        failures = _save_and_kill_libvirtd(host, vm, private_host)
        state = _settled(host, vm)
        assert state in {"running", "saved"}
        report = vm.start()
        assert report.how == {"running": "was running", "saved": "restored"}[state]
        assert until_agent(vm) == boot
        assert not vm.saved
        if failures:
            break
    assert isinstance(failures[0], vmctl.HostUnavailableError)


def _save_and_kill_libvirtd(
    host: vmctl.Host, vm: vmctl.VM, private_host: private.PrivateHost
) -> list[vmctl.VmctlError]:
    """Kill libvirtd as soon as it is at the saving of a machine; returns what that failed by."""
    daemon = libvirtd_pid(private_host)
    failures: list[vmctl.VmctlError] = []

    def save() -> None:
        try:
            vm.save()
        except vmctl.VmctlError as error:
            failures.append(error)

    with host._connection.events.listening(vm.uuid) as heard:
        saving = threading.Thread(target=save)
        saving.start()
        # libvirt stops the guest for it first.
        paused = heard.wait_for(
            lambda: True if libvirts_state(host, vm) != RUNNING else None,
            deadline=time.monotonic() + 30,
            recheck=0.01,
        )
        os.kill(daemon, signal.SIGKILL)
    assert paused
    saving.join(120)
    return failures


def fill_memory(vm: vmctl.VM) -> None:
    """Fill memory with what doesn't compress, so that writing it takes its time."""
    vm.run("dd if=/dev/urandom of=/dev/shm/fill bs=1M count=24", check=True, timeout=120)


def _settled(host: vmctl.Host, vm: vmctl.VM) -> str:
    """Return what a machine came to: ``running`` or ``saved``."""

    def look() -> str | None:
        try:
            state = "saved" if vm.saved else vm.state
        except vmctl.HostUnavailableError:
            return None
        return state if state in {"running", "saved"} else None

    with host._connection.events.listening(vm.uuid) as heard:
        return heard.wait_for(look, deadline=time.monotonic() + 60, recheck=0.2) or vm.state


def test_a_client_that_is_killed_in_the_middle_of_a_save(host: vmctl.Host, vm: vmctl.VM) -> None:
    boot = until_agent(vm)
    with (
        host._connection.events.listening(vm.uuid) as heard,
        subprocess.Popen(
            [sys.executable, "-m", "vmctl.cli.main", "--uri", host.uri, "save", vm.name]
        ) as client,
    ):
        assert heard.wait_for(
            lambda: True if libvirts_state(host, vm) != RUNNING else None,
            deadline=time.monotonic() + 60,
            recheck=0.01,
        )
        client.kill()
        client.wait()
    vm._forget_connection()
    assert _settled(host, vm) in {"running", "saved"}
    assert host.gc() == []
    vm.start()
    assert until_agent(vm) == boot


@pytest.mark.usefixtures("nothing_left")
def test_a_machine_that_is_off_is_a_wrong_state(
    host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path
) -> None:
    vm = host.create(make_spec(cloud_init=None))
    for verb in (
        vm.pause, vm.resume, vm.reset, vm.save, vm.nmi, lambda: vm.dump(tmp_path / "core"),
    ):  # fmt: skip
        with pytest.raises(WrongStateError) as caught:
            verb()
        assert caught.value.state == "shut off"
        assert caught.value.exit_code == 4
    for words in (["reset"], ["save"], ["nmi"], ["pause"]):
        assert command_line(host, *words, vm.name).returncode == 4
    assert vm.discard_saved() is False
    vm.delete()
