"""What happens to a real guest is told as it happens, and what can't be told is said so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import vmctl
from vmctl.hypervisor import private

from .test_waiting import _libvirtd_of, bootable

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def guest(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    vm = host.launch(
        vmctl.VMSpec.model_validate(
            {"name": "told", "image": micro_image, "memory": "192MiB", "nics": [{"user": True}]}
        )
    )
    yield vm
    vm.delete()


def until(stream: vmctl.EventStream, kind: str) -> vmctl.Event:
    """Take events up to one of that kind."""
    for event in stream:
        if event.kind == kind:
            return event
    raise AssertionError(f"no {kind} came")


def test_what_a_guest_does_of_its_own_accord(guest: vmctl.VM) -> None:
    with guest.events(timeout=280) as stream:
        with suppress(vmctl.GuestUnreachableError):
            guest.run("sudo -n reboot")
        assert until(stream, "reboot").name == "told"
        guest._forget_connection()
        guest.wait()
        with suppress(vmctl.GuestUnreachableError):
            guest.run("sudo -n poweroff")
        assert until(stream, "shutdown").detail == "guest request"
        assert until(stream, "stopped").detail == "shutdown"
        info = guest.info()
        assert (info.state, info.state_reason) == ("shut off", "shutdown")
        guest._forget_connection()
        guest.start()
        assert until(stream, "started").detail == "booted"
        assert until(stream, "agent-connected").uuid == guest.uuid
        guest.wait()


def test_what_is_done_to_a_guest(host: vmctl.Host, guest: vmctl.VM) -> None:
    raw = host._connection.raw.lookupByName(guest.name)
    with guest.events(timeout=60) as stream:
        guest.pause()
        assert until(stream, "suspended").detail == "paused"
        guest.resume()
        assert until(stream, "resumed").detail == "unpaused"
        raw.setMemoryFlags(160 << 10)
        assert until(stream, "balloon").raw["actual"] < 192 << 10
        raw.setMemoryFlags(192 << 10)
        guest._domain.update_record(owner="somebody")
        assert until(stream, "metadata").detail == "urn:vmctl:machine:1"
        nic = (
            "<interface type='user'><mac address='52:54:00:0a:0b:99'/><model type='virtio'/>"
            "</interface>"
        )
        raw.attachDeviceFlags(nic)
        alias = until(stream, "device-added").detail
        raw.detachDeviceFlags(nic)
        assert until(stream, "device-removed").detail == alias


def test_libvirtd_restarts_under_a_stream(
    private_host: private.PrivateHost, host: vmctl.Host, guest: vmctl.VM
) -> None:
    heard: list[str] = []
    with guest.events(timeout=120) as stream, host.on_event(lambda one: heard.append(one.kind)):
        os.kill(_libvirtd_of(private_host), signal.SIGKILL)
        assert until(stream, "connection-lost").name == ""
        assert "missed" in until(stream, "connection-regained").detail
        guest.pause()
        assert until(stream, "suspended").name == "told"
        guest.resume()
    assert heard.count("connection-lost") == heard.count("connection-regained") == 1
    assert "suspended" in heard


def test_on_the_command_line(private_host: private.PrivateHost, guest: vmctl.VM) -> None:
    command = [sys.executable, "-m", "vmctl.cli.main", "-c", f"private:{private_host.name}"]
    options = ["events", "told", "--format", "json", "--verbose", "--timeout", "100"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith("listening at")
        guest.pause()
        first = json.loads(process.stdout.readline())
        assert (first["kind"], first["name"], first["detail"]) == ("suspended", "told", "paused")
        assert list(first) == ["time", "kind", "name", "uuid", "detail", "raw"]
        guest.resume()
        assert json.loads(process.stdout.readline())["kind"] == "resumed"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")


Calls = dict[str, Callable[[], object]]


def removed_during(host: vmctl.Host, vm: vmctl.VM, calls: Calls, ready: threading.Event) -> None:
    """Remove a machine behind vmctl's back while calls wait for it; each says that it is gone."""
    ended: dict[str, vmctl.VmctlError] = {}

    def run(name: str) -> None:
        try:
            calls[name]()
        except vmctl.VmctlError as error:
            ended[name] = error

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in calls]
    for thread in threads:
        thread.start()
    assert ready.wait(60)
    raw = host._connection.raw.lookupByName(vm.name)
    # Its definition first: then it is never merely off, which a stop would take for its success.
    raw.undefine()
    raw.destroy()
    for thread in threads:
        thread.join(40)
    for volume in host.volumes.list():
        if vm.uuid in volume.name:
            host.volumes.delete(f"{volume.pool}/{volume.name}")
    assert {name: type(error) for name, error in ended.items()} == dict.fromkeys(
        calls, vmctl.NotFoundError
    )


def test_a_machine_is_removed_while_its_guest_is_waited_for(
    host: vmctl.Host, make_spec: Callable[..., vmctl.VMSpec], tmp_path: Path
) -> None:
    vm = host.launch(make_spec(image=str(bootable(tmp_path, "nobody is at home"))), wait=False)
    ready = threading.Event()

    def seen(progress: vmctl.Progress) -> None:
        if progress.phase == "shutdown" and "button" in progress.detail:
            ready.set()

    with vm.events() as stream:
        calls: Calls = {
            "wait": vm.wait,
            "events": lambda: list(stream),
            "stop": lambda: vm.stop(timeout=200, progress=seen),
        }
        removed_during(host, vm, calls, ready)


def test_a_machine_is_removed_while_a_command_runs_in_it(
    host: vmctl.Host, make_spec: Callable[..., vmctl.VMSpec]
) -> None:
    """Its NIC is on a bridge: nobody closes the connection for the guest."""
    vm = host.launch(make_spec(nics=[{"network": "default"}]))
    ready = threading.Event()
    run = "echo begun; sleep 1000"
    removed_during(host, vm, {"run": lambda: vm.run(run, on_stdout=lambda _: ready.set())}, ready)
