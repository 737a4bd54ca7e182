"""External snapshots deleted: their layers are merged, and all that is left reads as before."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

import vmctl
from vmctl import integrity
from vmctl.hypervisor import blockjobs, private
from vmctl.hypervisor import snapshots as backend
from vmctl.hypervisor.snapshots import details_of
from vmctl.render.volume import render_volume
from vmctl.snapshotting import planning

from .conftest import pool_volumes
from .test_external_snapshots import consistent, in_tree, read, write
from .test_snapshot_faults import do_and_die, idle, run_of

__all__ = ["idle"]

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def pair(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    """A running machine with a qcow2 disk and a raw one."""
    before = pool_volumes(host)
    spec = {
        "name": "pair",
        "image": micro_image,
        "memory": "192MiB",
        "nics": [{"user": True}],
        "disks": [{}, {"size": "8MiB", "format": "raw"}],
    }
    machine = host.launch(vmctl.VMSpec.model_validate(spec))
    try:
        yield machine
    finally:
        machine.delete()
    left = {name for name in pool_volumes(host) - before if not name.startswith("sha256-")}
    assert left == set()


def layers(vm: vmctl.VM, target: str = "vda") -> int:
    """Return of how many files a disk is made of, the shared image not counted."""
    (disk,) = [disk for disk in vm.info().disks if disk.target == target]
    return sum("sha256-" not in layer.path for layer in disk.chain)


def test_while_it_runs_and_while_it_is_off(host: vmctl.Host, pair: vmctl.VM) -> None:
    vm = pair
    run = run_of(vm)
    write(vm, "one")
    vm.snapshots.create("one", memory=False)
    write(vm, "two")
    vm.snapshots.create("two")
    write(vm, "three")
    vm.snapshots.create("three", memory=False)
    write(vm, "four")
    assert [layers(vm, target) for target in ("vda", "vdb")] == [4, 4]
    sizes = vm.snapshots.sizes()
    # It holds a memory, of 192 MiB at the most.
    assert (192 << 20) * 2 > sizes["two"] > (4 << 20) > sizes["three"]

    # One in the middle: the layer above it is another snapshot's.
    told: list[vmctl.Progress] = []
    assert vm.snapshots.delete("two", progress=told.append) == ("two",)
    assert {report.state for report in told if report.phase == "delete"} >= {"begin", "end"}
    assert any("merging a layer of vda" in report.detail for report in told)
    assert [layers(vm, target) for target in ("vda", "vdb")] == [3, 3]
    assert in_tree(vm) == {"one": "", "three": "one"}
    consistent(host, vm)
    assert (run_of(vm), read(vm)) == (run, ("four", "four"))
    # The one that the guest writes to.
    vm.snapshots.delete("three")
    assert [layers(vm, target) for target in ("vda", "vdb")] == [2, 2]
    consistent(host, vm)
    assert (run_of(vm), read(vm)) == (run, ("four", "four"))

    # Off, QEMU is started for it, and its processors stand still.
    vm.stop(timeout=30)
    vm.snapshots.create("off")
    vm.snapshots.delete("one")
    assert (vm.state, in_tree(vm)) == ("shut off", {"off": ""})
    assert [layers(vm, target) for target in ("vda", "vdb")] == [2, 2]
    consistent(host, vm)
    assert vm.snapshots.merge() == 0
    vm.start()
    vm.wait()
    assert read(vm) == ("four", "four")
    write(vm, "five")
    vm.snapshots.revert("off")
    vm.start()
    vm.wait()
    assert read(vm) == ("four", "four")
    vm.snapshots.delete("off")
    assert [layers(vm, target) for target in ("vda", "vdb")] == [1, 1]
    consistent(host, vm)
    assert read(vm) == ("four", "four")


def test_branches(host: vmctl.Host, pair: vmctl.VM) -> None:
    vm = pair
    for word in ("root", "left", "right"):
        if word == "right":
            vm.snapshots.revert("root")
        write(vm, word)
        vm.snapshots.create(word)
    assert in_tree(vm) == {"root": "", "left": "root", "right": "root"}
    # What both branches lie on stays, and both are whole.
    vm.snapshots.delete("root")
    assert in_tree(vm) == {"left": "", "right": ""}
    assert layers(vm) == 3
    consistent(host, vm)
    vm.snapshots.revert("left")
    assert read(vm) == ("left", "left")
    vm.snapshots.revert("right")
    assert read(vm) == ("right", "right")
    # With one branch left there is nothing to share any more.
    vm.snapshots.delete("left")
    assert layers(vm) == 2
    consistent(host, vm)
    vm.snapshots.create("leaf")
    assert vm.snapshots.delete("right", children=True) == ("right", "leaf")
    assert (in_tree(vm), layers(vm)) == ({}, 1)
    consistent(host, vm)
    assert read(vm) == ("right", "right")


def test_what_is_refused(host: vmctl.Host, idle: vmctl.VM) -> None:
    vm = idle
    vm.start()
    vm.snapshots.create("base")
    frozen = vm.snapshots.list()[0]
    with pytest.raises(vmctl.NotFoundError, match="no snapshot 'bas'"):
        vm.snapshots.delete("bas")
    # Something lies on what it holds: a clone's disk, say.
    path = details_of(vm._domain, "base").disks[0].path
    pool = host._connection.raw.storagePoolLookupByName("default")
    volume = pool.createXML(
        render_volume(
            "leans.qcow2",
            capacity=1 << 20,
            format="qcow2",
            backing_path=path,
            backing_format="qcow2",
        )
    )
    try:
        with pytest.raises(vmctl.ConflictError, match="'default/leans.qcow2' lies on"):
            vm.snapshots.delete("base")
        assert [entry.name for entry in vm.snapshots.list()] == [frozen.name]
        consistent(host, vm)
    finally:
        volume.delete()
    vm.snapshots.delete("base")
    consistent(host, vm)


def test_one_that_is_interrupted_is_gone_on_with(
    host: vmctl.Host, idle: vmctl.VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = idle
    vm.start()
    run, phase = run_of(vm), vm.info().phase
    vm.snapshots.create("going", memory=False)
    files = [disk.path for disk in vm._domain.disks()]

    def interrupt(*_arguments: object, **_options: object) -> None:
        """Press Ctrl-C while QEMU merges."""
        assert blockjobs.facts_of(vm._domain, "vda") is not None
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(blockjobs, "follow", interrupt)
        with pytest.raises(KeyboardInterrupt):
            vm.snapshots.delete("going")
    # The job has ended; the guest runs on in the same files, and nobody is at work on it.
    assert [disk.path for disk in vm._domain.disks()] == files
    assert backend.busy_disks(vm._domain) == ()
    assert (vm.state, run_of(vm), vm.info().phase) == ("running", run, phase)
    assert host.gc() == []
    assert vm.snapshots.list() == []
    assert vm.snapshots.merge() == 2
    assert (layers(vm), layers(vm, "vdb")) == (1, 1)
    assert run_of(vm) == run
    consistent(host, vm)


def test_many_layers_are_seen_and_too_many_are_refused(
    host: vmctl.Host, idle: vmctl.VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = idle
    vm.stop(force=True, timeout=0)
    for name in ("a", "b"):
        vm.snapshots.create(name)
    monkeypatch.setattr(integrity, "MANY_LAYERS", 2)
    connection = vm._domain.connection
    assert integrity.long_chains(connection) == [
        f"the disk '{target}' of 'idle' is made of 3 layers" for target in ("vda", "vdb")
    ]
    monkeypatch.setattr(planning, "_MOST_LAYERS", 3)
    with pytest.raises(vmctl.ConflictError, match="'vda' of 'idle' is made of 3 layers") as caught:
        vm.snapshots.create("c")
    assert "vmctl snapshot prune idle" in caught.value.hint
    # The rules keep the newest, and the current one whatever they say.
    assert vm.snapshots.prune(vmctl.Retention(last=1), dry_run=True) == ("a",)
    vm.snapshots.revert("a")
    assert vm.snapshots.prune(vmctl.Retention(last=1)) == ()
    vm.snapshots.revert("b")
    assert vm.snapshots.prune(vmctl.Retention(last=1)) == ("a",)
    assert integrity.long_chains(connection) == []
    vm.snapshots.delete("b")
    consistent(host, vm)


def test_sigkill_at_every_step(
    private_host: private.PrivateHost, host: vmctl.Host, idle: vmctl.VM
) -> None:
    vm = idle
    vm.start()
    run = run_of(vm)
    at, done = 0, False
    while not done:
        at += 2
        vm.snapshots.create("kept", memory=False)
        vm.snapshots.create("going", memory=False)
        status, what = do_and_die(private_host, at, vm.name, "delete", "going")
        done = status == 0
        assert done or status == -signal.SIGKILL, (at, what)
        found = host.gc()
        assert [entry.phase for entry in found] in ([], ["merging"]), (at, what)
        consistent(host, vm)
        assert (vm.state, run_of(vm)) == ("running", run)
        assert not any(
            blockjobs.facts_of(vm._domain, disk.target) for disk in blockjobs.live_disks(vm._domain)
        )
        assert host.gc() == []
        # Whatever was left goes when the next one does.
        for entry in reversed(vm.snapshots.list()):
            vm.snapshots.delete(entry.name)
        vm.snapshots.merge()
        assert layers(vm) == layers(vm, "vdb") == 1
        consistent(host, vm)
    assert at > 4
