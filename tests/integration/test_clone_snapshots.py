"""Clones of snapshots, and clones that lie on the files that snapshots froze."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl.hypervisor import private

from .clones import content, guestless
from .conftest import enter_host, pool_volumes

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def source(host: vmctl.Host, tmp_path: Path) -> Iterator[vmctl.VM]:
    """A machine with two disks of data and no guest, that is off."""
    vm = guestless(host, tmp_path)
    yield vm
    vm.delete()


def write(private_host: private.PrivateHost, vm: vmctl.VM) -> None:
    """Write to each disk of a machine that is off, as its guest would."""
    for disk in vm._domain.disks():
        command = ["qemu-io", "-f", disk.format, "-c", "write -P 0xaa 4k 64k", disk.path]
        subprocess.run([*enter_host(private_host), *command], check=True, capture_output=True)


def test_what_was_frozen_and_what_is(
    private_host: private.PrivateHost, host: vmctl.Host, source: vmctl.VM
) -> None:
    before = content(source)
    linked = source.clone(f"{source.name}-l", linked=True)
    assert [entry.name for entry in source.snapshots.list()] == [linked.name]
    write(private_host, source)
    after = content(source)
    assert after != before
    source.start()
    try:
        copied = source.clone(f"{source.name}-c", from_snapshot=linked.name)
        second = source.clone(f"{source.name}-d", linked=True, from_snapshot=linked.name)
    finally:
        source.stop(timeout=0, force=True)
    now = source.clone(f"{source.name}-n")
    clones = [linked, copied, second, now]
    try:
        assert [content(vm) for vm in clones] == [before, before, before, after]
        write(private_host, second)
        assert content(second) == after
        assert content(linked) == before
        assert content(source) == after
        # A linked clone is one more disk in nobody's way, and keeps what it lies on.
        with pytest.raises(vmctl.ConflictError) as caught:
            source.delete()
        assert f"the machine '{linked.name}'" in caught.value.brief
        assert f"the machine '{second.name}'" in caught.value.brief
        assert "flatten" in caught.value.hint
        with pytest.raises(vmctl.ConflictError, match=f"the machine '{linked.name}'") as caught:
            source.snapshots.delete(linked.name)
        assert f"`vmctl flatten {second.name}`" in caught.value.hint
        # Rules don't stumble over it.
        source.snapshots.create("later")
        rules = vmctl.Retention(last=1)
        assert list(source.snapshots.held()) == [linked.name]
        source.snapshots.create("last")
        assert source.snapshots.prune(rules, dry_run=True) == ("later",)
        assert source.snapshots.prune(rules) == ("later",)
        source.snapshots.delete("last")
        assert content(source) == after
        assert linked.flatten() == ("vda", "vdb")
        assert content(linked) == before
        with pytest.raises(vmctl.ConflictError, match="lies what the machine") as caught:
            source.delete()
        assert linked.name not in caught.value.brief.replace(source.name + "-d", "")
    finally:
        for vm in clones:
            vm.delete()


def test_a_linked_clone_that_fails_takes_its_snapshot_back(
    host: vmctl.Host, source: vmctl.VM
) -> None:
    files = [disk.path for disk in source._domain.disks()]
    before = content(source)

    def fail(report: vmctl.Progress) -> None:
        if (report.phase, report.state) == ("define", "begin"):
            raise RuntimeError("somebody pulled the plug")

    with pytest.raises(RuntimeError, match="pulled the plug"):
        source.clone(f"{source.name}-l", linked=True, progress=fail)
    assert source.snapshots.list() == []
    assert [disk.path for disk in source._domain.disks()] == files
    assert content(source) == before
    assert [machine.name for machine in host.list()] == [source.name]


def test_pruning_goes_on_beside_what_a_clone_lies_on(source: vmctl.VM) -> None:
    linked = source.clone(f"{source.name}-l", linked=True)
    try:
        source.snapshots.create("old", kind="external")
        source.snapshots.create("new")
        rules = vmctl.Retention(last=1)
        assert source.snapshots.prune(rules, dry_run=True) == ("old",)
        assert source.snapshots.prune(rules) == ("old",)
        assert [entry.name for entry in source.snapshots.list()] == [linked.name, "new"]
    finally:
        linked.delete()
    assert source.snapshots.prune(rules) == (linked.name,)


def test_sigkill_in_a_linked_clone_leaves_no_snapshot(
    private_host: private.PrivateHost, host: vmctl.Host, source: vmctl.VM
) -> None:
    files = [disk.path for disk in source._domain.disks()]
    before = content(source)
    new = f"{source.name}-l"
    (points,) = die(private_host, 0, source.name, new)
    host.get(new).delete()
    source.snapshots.delete(new)
    volumes = pool_volumes(host)
    every = int(os.environ.get("VMCTL_TEST_EVERY", "16"))
    for at in (-1, *range(1 + every // 2, int(points) + 1, every)):
        die(private_host, at, source.name, new)
        found = host.gc()
        if new in {machine.name for machine in host.list()}:
            # All of it was made.
            assert [entry.name for entry in source.snapshots.list()] == [new]
            host.get(new).delete()
            source.snapshots.delete(new)
        if at == -1:
            assert [(it.name, it.phase, it.snapshots) for it in found] == [
                (source.name, "cloning", (new,))
            ]
        assert source.snapshots.list() == []
        assert host.gc() == []
        assert source._record().lent == ()
        assert [disk.path for disk in source._domain.disks()] == files
        assert pool_volumes(host) == volumes
    assert content(source) == before
    # Whoever wants a clone of that name again needs no gc.
    die(private_host, -1, source.name, new)
    host.get(source.name).clone(new, linked=True).delete()
    source.snapshots.delete(new)


def die(host: private.PrivateHost, at: int, *names: str) -> list[str]:
    """Let a client make a linked clone that kills itself; returns the words that it said."""
    module = "tests.integration.killing_client"
    done = subprocess.run(
        [sys.executable, "-m", module, f"private:{host.name}", str(at), "linked", *names],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
        timeout=120,
    )
    assert done.returncode == (-signal.SIGKILL if at else 0)
    return done.stdout.split()


def test_snapshots_that_no_clone_can_be_made_of(host: vmctl.Host, source: vmctl.VM) -> None:
    before = pool_volumes(host)
    with pytest.raises(vmctl.NotFoundError, match="no snapshot 'nothing'"):
        source.clone(f"{source.name}-b", from_snapshot="nothing")
    with pytest.raises(vmctl.UsageError):
        source.clone(f"{source.name}-b", linked=True, values={"memory": "1GiB"})
    with pytest.raises(vmctl.ConflictError, match="there is a machine"):
        source.clone(source.name, linked=True)
    assert source.snapshots.list() == []
    assert pool_volumes(host) == before


def test_an_internal_snapshot(private_host: private.PrivateHost, host: vmctl.Host) -> None:
    disks = [{"size": "16MiB"}, {"size": "8MiB"}]
    spec = {"name": "internal", "memory": "64MiB", "nics": [], "disks": disks}
    vm = host.create(vmctl.VMSpec.model_validate(spec))
    try:
        empty = content(vm)
        vm.snapshots.create("empty")
        write(private_host, vm)
        written = content(vm)
        vm.start()
        vm.snapshots.create("inside")
        with pytest.raises(vmctl.WrongStateError, match="stop it first|is running"):
            vm.clone("internal-b", from_snapshot="inside")
        with pytest.raises(vmctl.ConflictError, match="internal"):
            vm.clone("internal-b", linked=True)
        vm.stop(timeout=0, force=True)
        with pytest.raises(vmctl.UnsupportedError, match="nothing can lie on that"):
            vm.clone("internal-b", linked=True, from_snapshot="inside")
        notes: list[str] = []
        first = vm.clone("internal-b", from_snapshot="empty", tell=notes.append)
        second = vm.clone("internal-c", from_snapshot="inside", tell=notes.append)
        try:
            assert content(first) == empty != written
            assert content(second) == written
            assert [first.snapshots.list(), second.snapshots.list()] == [[], []]
            assert [entry.name for entry in vm.snapshots.list()] == ["empty", "inside"]
            assert sum("as after a power cut" in note for note in notes) == 1
            (disk, *_) = first._domain.disks()
            command = ["qemu-img", "snapshot", "-l", disk.path]
            listed = subprocess.run(
                [*enter_host(private_host), *command], check=True, capture_output=True
            )
            assert listed.stdout == b""
            assert first.info().phase == vm.info().phase
            first.start()
            assert first.state == "running"
        finally:
            first.delete()
            second.delete()
    finally:
        vm.delete()
