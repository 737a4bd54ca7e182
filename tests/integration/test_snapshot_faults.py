"""Snapshots and reverts that are cut off: afterwards all is as before, or as it should be then."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl.hypervisor import private

from .test_external_snapshots import consistent

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
    for at in range(1, int(said) + 1):
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
            _forget(host, vm, "cut")
        assert host.gc() == []
    assert taken
    _forget(host, vm, "whole")


def _forget(host: vmctl.Host, vm: vmctl.VM, name: str) -> None:
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
    for at in range(1, int(said) + 1):
        before, run = files_of(vm), run_of(vm)
        status, what = do_and_die(private_host, at, vm.name, "revert", "here")
        assert status == -signal.SIGKILL, (at, what)
        # Whoever comes next settles it, as `gc` does.
        if at % 2:
            assert [entry.phase for entry in host.gc()] in ([], ["reverting"]), (at, what)
        else:
            vm.start()
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
    _forget(host, vm, "here")
