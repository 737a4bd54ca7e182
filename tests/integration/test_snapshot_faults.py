"""Snapshots and reverts that are cut off: afterwards all is as before, or as it should be then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import libvirt_qemu
import pytest
from lxml import etree

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Phase, SnapshotWork
from vmctl.spec import DiskSpec

from .conftest import enter_host
from .test_external_snapshots import consistent
from .test_waiting import _libvirtd_of

pytestmark = pytest.mark.timeout(900)

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def idle(host: vmctl.Host) -> Iterator[vmctl.VM]:
    """A machine with UEFI and two blank disks; nothing but its firmware runs."""
    spec = {
        "name": "idle",
        "memory": "48MiB",
        "firmware": "uefi",
        "nics": [],
        "disks": [{"size": "1MiB"}, {"size": "1MiB", "format": "raw"}],
    }
    machine = host.launch(vmctl.VMSpec.model_validate(spec), wait=False)
    try:
        yield machine
    finally:
        machine.delete()


def do_and_die(host: private.PrivateHost, at: int, *words: str) -> tuple[int, str]:
    """Run the client that kills itself; returns its status and what it said last."""
    program = [sys.executable, "-m", "tests.integration.killing_snapshot", f"private:{host.name}"]
    done = subprocess.run(
        [*program, str(at), *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=_ROOT,
        timeout=120,
    )
    return done.returncode, done.stdout.strip()


def _some(points: int) -> range:
    """Return the points at which a client is killed: each third one, or all if asked for."""
    every = os.environ.get("VMCTL_TEST_EVERY_KILL")
    return range(1, points + 1, 1 if every else 3)


def files_of(vm: vmctl.VM) -> tuple[str, ...]:
    """Return the files that the machine goes on in, its variables included."""
    return (*(disk.path for disk in vm._domain.disks()), vm._domain.firmware()[1])


def run_of(vm: vmctl.VM) -> int:
    """Return what tells one run of the machine from another; -1 when it is off."""
    number: int = vm._domain.raw().ID()
    return number


def test_sigkill_at_every_step_of_a_snapshot(
    private_host: private.PrivateHost, host: vmctl.Host, idle: vmctl.VM
) -> None:
    vm = idle
    vm.start()
    status, said = do_and_die(private_host, 0, vm.name, "create", "whole")
    assert status == 0
    consistent(host, vm)
    taken = 0
    for at in _some(int(said)):
        before, run = files_of(vm), run_of(vm)
        status, what = do_and_die(private_host, at, vm.name, "create", "cut")
        assert status == -signal.SIGKILL, (at, what)
        found = host.gc()
        assert [entry.phase for entry in found] in ([], ["snapshotting"]), (at, what)
        consistent(host, vm)
        # The guest runs on in either case, and was not started anew.
        assert (vm.state, run_of(vm)) == ("running", run), (at, what)
        cut = next((entry for entry in vm.snapshots.list() if entry.name == "cut"), None)
        assert (cut is None) == (files_of(vm) == before), (at, what)
        if cut is not None:
            taken += 1
            assert (cut.state, cut.memory) == ("running", True)
            vm.snapshots.revert("cut")
            assert vm.state == "running"
            _forget(vm, "cut")
        assert host.gc() == []
    assert taken
    _forget(vm, "whole")


def _forget(vm: vmctl.VM, name: str) -> None:
    """Take a snapshot's metadata away, as another program may; the next one sweeps its files."""
    vm._domain.raw().snapshotLookupByName(name).delete(2)


def test_sigkill_at_every_step_of_a_revert(
    private_host: private.PrivateHost, host: vmctl.Host, idle: vmctl.VM
) -> None:
    vm = idle
    vm.start()
    vm.snapshots.create("here")
    status, said = do_and_die(private_host, 0, vm.name, "revert", "here")
    assert status == 0
    outcomes = set()
    for at in _some(int(said)):
        before, run = files_of(vm), run_of(vm)
        status, what = do_and_die(private_host, at, vm.name, "revert", "here")
        assert status == -signal.SIGKILL, (at, what)
        # Whoever comes next settles it, as `gc` does.
        if at % 2:
            vm.start()
        assert [entry.phase for entry in host.gc()] in ([], ["reverting"]), (at, what)
        consistent(host, vm)
        assert vm.state == "running", (at, what)
        # Before it: the same run goes on in the same files. After it: another, in none of them.
        same = run_of(vm) == run
        assert (files_of(vm) == before) == same, (at, what)
        assert same or set(files_of(vm)).isdisjoint(before), (at, what)
        assert not same or "Define" not in what or what.startswith("before"), (at, what)
        outcomes.add(same)
        assert [entry.name for entry in vm.snapshots.list() if entry.current] == ["here"]
        assert host.gc() == []
    assert outcomes == {True, False}
    _forget(vm, "here")


def _at(detail: str, kill: Callable[[], None]) -> Callable[[vmctl.Progress], None]:
    """Return a listener that kills once, in the moment in which something begins."""
    done: list[str] = []

    def heard(report: vmctl.Progress) -> None:
        if report.detail.startswith(detail) and not done:
            done.append(detail)
            kill()

    return heard


def test_libvirtd_is_killed_in_the_middle(
    private_host: private.PrivateHost, host: vmctl.Host, idle: vmctl.VM
) -> None:
    vm = idle
    vm.start()

    def kill() -> None:
        os.kill(_libvirtd_of(private_host), signal.SIGKILL)

    for detail in ("making the files", "writing the guest's memory"):
        before, run = files_of(vm), run_of(vm)
        with pytest.raises(vmctl.VmctlError):
            vm.snapshots.create("lost", progress=_at(detail, kill))
        consistent(host, vm)
        assert vm.snapshots.list() == []
        assert (vm.state, run_of(vm), files_of(vm)) == ("running", run, before)
    vm.snapshots.create("here")
    # A host whose libvirtd ends five times within half a minute is given up.
    for detail in ("bringing back the definition", "bringing back the memory"):
        before, run = files_of(vm), run_of(vm)
        failed = None
        try:
            vm.snapshots.revert("here", progress=_at(detail, kill))
        except vmctl.VmctlError as error:
            failed = error
        consistent(host, vm)
        assert vm.state == "running"
        same = run_of(vm) == run
        assert (files_of(vm) == before) == same
        # What was not said to have failed is done.
        assert failed is not None or not same
        assert detail != "bringing back the memory" or not same
    _forget(vm, "here")


@pytest.mark.parametrize("verb", ["create", "revert"])
def test_sigkill_while_libvirt_is_at_it(
    private_host: private.PrivateHost, host: vmctl.Host, idle: vmctl.VM, verb: str
) -> None:
    """libvirt goes on with what the client asked for, and whoever comes next waits for its end."""
    vm = idle
    vm.start()
    if verb == "revert":
        vm.snapshots.create("flight")
    program = (
        "import vmctl\n"
        "def say(report):\n"
        "    print(report.detail, flush=True)\n"
        f"with vmctl.connect('private:{private_host.name}') as host:\n"
        f"    host.get('{vm.name}').snapshots.{verb}('flight', progress=say)\n"
    )
    run = run_of(vm)
    words = {"create": "writing the guest's memory", "revert": "bringing back the memory"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        for line in client.stdout:
            if line.startswith(words[verb]):
                break
        client.kill()
    vm.resume()
    consistent(host, vm)
    assert vm.state == "running"
    assert (run_of(vm) == run) == (verb == "create")
    for entry in vm.snapshots.list():
        vm.snapshots.revert(entry.name)
        _forget(vm, entry.name)
    assert vm.state == "running"
    assert host.gc() == []


@pytest.fixture(scope="module")
def plain(host: vmctl.Host) -> Iterator[vmctl.VM]:
    """A machine with two blank qcow2 disks, and nothing in them."""
    spec = {"name": "plain", "memory": "32MiB", "nics": [], "disks": [{"size": "1MiB"}] * 2}
    machine = host.launch(vmctl.VMSpec.model_validate(spec), wait=False)
    try:
        yield machine
    finally:
        machine.delete()


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
def test_sigkill_at_every_step_of_a_revert_to_an_internal_snapshot(
    private_host: private.PrivateHost, host: vmctl.Host, plain: vmctl.VM, running: bool
) -> None:
    vm, name = plain, f"inside-{running}"
    if running:
        vm.start()
    else:
        vm.stop(timeout=0, force=True)
    assert vm.snapshots.create(name).kind == "internal"
    vm.disks.attach(DiskSpec(size="1MiB"), next_start=True)
    status, said = do_and_die(private_host, 0, vm.name, "revert", name)
    assert status == 0
    for at in _some(int(said)):
        vm.disks.attach(DiskSpec(size="1MiB"), next_start=True)
        status, what = do_and_die(private_host, at, vm.name, "revert", name)
        assert status == -signal.SIGKILL, (at, what)
        later = [disk.target for disk in vm.disks.list() if disk.later]
        host.gc()
        # What was attached since is the machine's still: nothing is forgotten, nothing half done.
        consistent(host, vm)
        assert vm.state == ("running" if running else "shut off"), (at, what)
        assert later in (["vda", "vdb"], ["vda", "vdb", "vdc"]), (at, what)
        assert host.gc() == []
        if later[2:]:
            vm.snapshots.revert(name)
    vm.snapshots.delete(name)


def test_checkpoints_of_others_are_told_of_first(host: vmctl.Host, plain: vmctl.VM) -> None:
    vm = plain
    vm.start()
    vm.snapshots.create("inside")
    raw = vm._domain.raw()
    raw.checkpointCreateXML("<domaincheckpoint><name>theirs</name></domaincheckpoint>")
    run = run_of(vm)
    for call in (lambda: vm.snapshots.create("more"), lambda: vm.snapshots.revert("inside")):
        with pytest.raises(vmctl.ConflictError, match="by the checkpoint 'theirs'"):
            call()
    assert run_of(vm) == run
    raw.checkpointLookupByName("theirs").delete()
    vm.snapshots.revert("inside")
    vm.snapshots.delete("inside")


def test_qemu_went_on_in_files_that_libvirt_does_not_know(
    private_host: private.PrivateHost,
    host: vmctl.Host,
    plain: vmctl.VM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when libvirtd is killed within the milliseconds in which it takes a snapshot."""
    vm = plain
    vm.start()
    before = files_of(vm)[:2]

    def switch(domain: Domain, xml: str, **_more: object) -> None:
        for disk in etree.fromstring(xml).findall("disks/disk[@snapshot='external']"):
            target = disk.get("name", "")
            (source,) = disk.findall("source")
            path = source.get("file", "")
            subprocess.run([*enter_host(private_host), "chmod", "666", path], check=True)
            below = before[("vda", "vdb").index(target)]
            file = {"driver": "file", "filename": path}
            node = {"driver": "qcow2", "node-name": target, "file": file, "backing": None}
            _ask_qemu(vm, "blockdev-add", node)
            over = {"node": _format_node(vm, below), "overlay": target}
            _ask_qemu(vm, "blockdev-snapshot", over)
        raise vmctl.HostUnavailableError("gone", hint="wait")

    monkeypatch.setattr("vmctl.hypervisor.snapshots.create_external", switch)
    with pytest.raises(vmctl.HostUnavailableError):
        vm.snapshots.create("half", memory=False)
    monkeypatch.undo()
    consistent(host, vm)
    assert vm.snapshots.list() == []
    # What the guest writes from now on is not lost when it is started next.
    assert set(files_of(vm)[:2]).isdisjoint(before)
    vm.stop(timeout=0, force=True)
    vm.start()
    consistent(host, vm)
    assert vm.snapshots.create("whole", memory=False).kind == "external"
    vm.snapshots.revert("whole")
    _forget(vm, "whole")


def _ask_qemu(vm: vmctl.VM, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
    text = json.dumps({"execute": command, "arguments": arguments or {}})
    return json.loads(libvirt_qemu.qemuMonitorCommand(vm._domain.raw(), text, 0))


def _format_node(vm: vmctl.VM, path: str) -> str:
    (name,) = (
        node["node-name"]
        for node in _ask_qemu(vm, "query-named-block-nodes")["return"]
        if node["file"] == path and node["drv"] == "qcow2"
    )
    return str(name)


def test_sigkill_while_libvirt_goes_back_inside(
    private_host: private.PrivateHost, host: vmctl.Host
) -> None:
    """libvirt ends QEMU, starts another, and tells of no job; `gc` waits for the end of it."""
    spec = {"name": "inner", "memory": "48MiB", "nics": [], "disks": [{"size": "1MiB"}] * 2}
    vm = host.launch(vmctl.VMSpec.model_validate(spec), wait=False)
    try:
        vm.snapshots.create("here", kind="internal")
        run = run_of(vm)
        program = [sys.executable, "-m", "tests.integration.struck_client"]
        words = [f"private:{private_host.name}", vm.name, "revert", "here"]
        with (
            host._connection.events.listening(vm.uuid) as heard,
            subprocess.Popen([*program, *words], stdout=subprocess.PIPE, cwd=_ROOT) as client,
        ):
            gone = heard.wait_for(
                lambda: True if run_of(vm) != run else None,
                deadline=time.monotonic() + 60,
                recheck=0.02,
            )
            client.kill()
        assert gone
        assert [entry.phase for entry in host.gc()] in ([], ["reverting"])
        consistent(host, vm)
        assert vm.state == "running"
        assert host.gc() == []
        (there,) = vm.snapshots.list()
        assert there.current
        vm.snapshots.revert("here")
        assert (vm.state, vm.info().phase) == ("running", "provisioning")
    finally:
        vm.delete()


def test_internal_ones_that_lie_in_one_disk_only(
    private_host: private.PrivateHost, host: vmctl.Host
) -> None:
    """As libvirt leaves them that ends in the middle: what was begun says what becomes of them."""
    spec = {"name": "halves", "memory": "48MiB", "nics": [], "disks": [{"size": "1MiB"}] * 2}
    vm = host.launch(vmctl.VMSpec.model_validate(spec), wait=False)
    try:
        paths = [disk.path for disk in vm._domain.disks()]
        for running in (True, False):
            if not running:
                vm.stop(force=True, timeout=0)
            for phase in (Phase.SNAPSHOTTING, Phase.MERGING):
                vm.snapshots.create("half", kind="internal")
                if phase is Phase.SNAPSHOTTING:
                    _forget(vm, "half")
                if not running:
                    command = ["qemu-img", "snapshot", "-d", "half", paths[0]]
                    subprocess.run([*enter_host(private_host), *command], check=True)
                work = SnapshotWork(snapshot="half", inside=True)
                with claimed(60) as claim:
                    pass
                vm._domain.update_record(phase=phase, before=Phase.READY, work=work, claim=claim)
                assert [entry.phase for entry in host.gc()] == [phase.value]
                consistent(host, vm)
                assert vm.snapshots.list() == []
                for path in paths:
                    command = ["qemu-img", "snapshot", "-U", "-l", path]
                    said = subprocess.run(
                        [*enter_host(private_host), *command], check=True, stdout=subprocess.PIPE
                    )
                    assert b"half" not in said.stdout
    finally:
        vm.delete()
