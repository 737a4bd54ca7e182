"""Clones under fire: names and rooms that are taken, sources that change, clients that die."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import vmctl
from vmctl import changes
from vmctl.hypervisor import private
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.metadata import Phase, Role
from vmctl.hypervisor.volumes import StoredVolume

from .clones import content, guestless
from .conftest import libvirtd_pid, snapshot_of_host

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(host: vmctl.Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vmctl.VM]:
    """A machine with two disks of data and no guest, that is off; tests leave it as it is."""
    vm = guestless(host, tmp_path_factory.mktemp("disk"))
    # So that libvirt has made the file with UEFI's variables.
    vm.start()
    vm.stop(timeout=0, force=True)
    try:
        yield vm
    finally:
        vm.delete()


@pytest.fixture
def running(source: vmctl.VM) -> Iterator[vmctl.VM]:
    """That machine, running."""
    source.start()
    yield source
    source.stop(timeout=0, force=True)


def nvram_of(vm: vmctl.VM) -> bytes:
    """Return the variables of a machine's UEFI."""
    owned = vm._record().volume(Role.NVRAM)
    assert owned is not None
    return StoredVolume(vm._domain.connection, owned.pool, owned.name).read()


def test_a_copy_has_what_its_source_has(host: vmctl.Host, source: vmctl.VM) -> None:
    before = content(source)
    while_off = source.clone(f"{source.name}-b")
    source.start()
    try:
        notes: list[str] = []
        while_running = source.clone(f"{source.name}-c", tell=notes.append)
    finally:
        source.stop(timeout=0, force=True)
    try:
        assert any("as after a power cut" in note for note in notes)
        assert any("no cloud-init" in note for note in notes)
        assert content(while_off) == before
        assert content(while_running) == before
        assert nvram_of(while_off) == nvram_of(while_running) == nvram_of(source)
        assert [disk.format for disk in while_running._domain.disks()] == ["qcow2", "raw"]
    finally:
        while_off.delete()
        while_running.delete()


@pytest.mark.skipif(shutil.which("swtpm") is None, reason="an emulated TPM needs swtpm")
def test_a_clone_has_a_tpm_of_its_own(host: vmctl.Host, private_host: private.PrivateHost) -> None:
    fields = {"memory": "64MiB", "nics": [], "disks": [{"size": "1MiB"}]}
    spec = {"name": "sealed", "firmware": {"type": "uefi", "tpm": True}, **fields}
    vm = host.create(vmctl.VMSpec.model_validate(spec))
    machines = [vm]
    try:
        vm.start()
        notes: list[str] = []
        machines += [vm.clone("sealed-b", tell=notes.append), vm.clone("sealed-c", linked=True)]
        assert any("TPM" in note for note in notes)
        held = []
        for machine in machines:
            machine.start()
            found = list(private_host.state_dir.rglob(f"*{machine.uuid}*/**/*.permall"))
            held.append({path.read_bytes() for path in found if path.is_file()})
        # Each has keys that were made for it alone.
        assert [len(content) for content in held] == [1, 1, 1]
        assert len(set().union(*held)) == 3
    finally:
        for machine in reversed(machines):
            machine.delete()


def test_taken_names_and_bad_ones(host: vmctl.Host, source: vmctl.VM) -> None:
    before = snapshot_of_host(host)
    with pytest.raises(vmctl.ConflictError, match="there is a machine"):
        source.clone(source.name)
    with pytest.raises(vmctl.UsageError, match="can't be a machine's name"):
        source.clone("../up")
    with pytest.raises(vmctl.UsageError, match="not what a clone can be given"):
        source.clone(f"{source.name}-b", values={"memory": "1GiB"})
    assert snapshot_of_host(host) == before
    assert source._record().exported_by is None


def test_two_clones_at_once_wait_for_each_other(host: vmctl.Host, source: vmctl.VM) -> None:
    names = [f"{source.name}-{letter}" for letter in "bcd"]
    with ThreadPoolExecutor(3) as pool:
        clones = list(pool.map(lambda name: host.get(source.name).clone(name), names))
    try:
        assert [vm.name for vm in clones] == names
        assert len({vm.uuid for vm in clones}) == 3
        assert source._record().exported_by is None
    finally:
        for vm in clones:
            vm.delete()


def test_of_two_clones_of_one_name_one_is_made(host: vmctl.Host, source: vmctl.VM) -> None:
    before = snapshot_of_host(host)

    def attempt(_number: int) -> vmctl.VM | vmctl.VmctlError:
        try:
            return host.get(source.name).clone(f"{source.name}-b")
        except vmctl.VmctlError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(attempt, range(2)))
    (made,) = [result for result in results if isinstance(result, vmctl.VM)]
    (refused,) = [result for result in results if isinstance(result, vmctl.VmctlError)]
    assert isinstance(refused, vmctl.ConflictError)
    made.delete()
    assert snapshot_of_host(host) == before


def test_of_a_clone_and_a_merging_in_one_moment_one_begins(
    source: vmctl.VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, reached = source._domain, threading.Event()

    def alone(*arguments: Any, **options: Any) -> Any:
        # All that a clone looks at before has been seen by now.
        reached.set()
        return changes.alone(*arguments, **options)

    monkeypatch.setattr("vmctl.cloning.making.alone", alone)
    with claimed(60) as claim, ThreadPoolExecutor(1) as pool:
        with changes.alone(domain, source._record()):
            begun = pool.submit(source.clone, f"{source.name}-b")
            assert reached.wait(30)
            domain.update_record(phase=Phase.MERGING, before=Phase.READY, claim=claim)
        with pytest.raises(vmctl.ConflictError, match="at work on .* it is merging"):
            begun.result(60)
        assert source._record().exported_by is None
        domain.update_record(phase=Phase.READY, before=None, claim=None)


class Once:
    """Does something at the first report of a phase."""

    def __init__(self, phase: str, act: Callable[[], object]) -> None:
        self._phase = phase
        self._act = act
        self.done = False

    def __call__(self, report: vmctl.Progress) -> None:
        if not self.done and (report.phase, report.state) == (self._phase, "update"):
            self.done = True
            self._act()


def test_what_is_refused_meanwhile(host: vmctl.Host, source: vmctl.VM) -> None:
    refused: list[str] = []

    def try_all() -> None:
        verbs: list[Callable[[], object]] = [source.start, source.delete]
        for verb in verbs:
            with pytest.raises(vmctl.ConflictError, match="exported or cloned by process"):
                verb()
            refused.append(repr(verb))
        assert host.gc() == []

    source.clone(f"{source.name}-b", progress=Once("disks", try_all)).delete()
    assert len(refused) == 2


def test_a_source_that_virsh_starts_meanwhile(host: vmctl.Host, source: vmctl.VM) -> None:
    before = snapshot_of_host(host)
    hook = Once("disks", lambda: source._domain.raw().create())
    try:
        with pytest.raises(vmctl.ConflictError, match="was started"):
            source.clone(f"{source.name}-b", progress=hook)
    finally:
        source._domain.destroy()
    assert snapshot_of_host(host) == before


def test_a_source_that_goes_off_meanwhile(host: vmctl.Host, running: vmctl.VM) -> None:
    before = snapshot_of_host(host)
    hook = Once("disks", running._domain.destroy)
    with pytest.raises(vmctl.WrongStateError):
        running.clone(f"{running.name}-b", progress=hook)
    assert hook.done
    assert snapshot_of_host(host) == before
    assert running._record().exported_by is None


@pytest.mark.parametrize("on", [False, True], ids=["off", "running"])
def test_a_pool_without_room(
    private_host: private.PrivateHost,
    host: vmctl.Host,
    source: vmctl.VM,
    small_pool: str,
    on: bool,
) -> None:
    before = snapshot_of_host(host)
    if on:
        source.start()
    try:
        with (
            vmctl.connect(f"private:{private_host.name}", pool=small_pool) as other,
            pytest.raises(vmctl.ResourceError, match="has no room"),
        ):
            other.get(source.name).clone(f"{source.name}-b")
    finally:
        source.stop(timeout=0, force=True)
    assert snapshot_of_host(host) == before


def test_libvirtd_restarts_meanwhile(
    private_host: private.PrivateHost, host: vmctl.Host, running: vmctl.VM
) -> None:
    hook = Once("disks", lambda: os.kill(libvirtd_pid(private_host), signal.SIGTERM))
    state = snapshot_of_host(host)
    try:
        clone = running.clone(f"{running.name}-b", progress=hook)
    except vmctl.VmctlError:
        assert snapshot_of_host(host) == state
    else:
        assert content(clone)[0] != b""
        clone.delete()
    assert hook.done
    assert running.state == "running"
    assert host.gc() == []


def clone_and_die(host: private.PrivateHost, vm: vmctl.VM, at: int) -> tuple[int, str]:
    """Run the client that kills itself; returns its status and what it said last."""
    module = "tests.integration.killing_client"
    arguments = [f"private:{host.name}", str(at), "clone", vm.name, f"{vm.name}-b"]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=_ROOT,
        timeout=120,
    )
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("on", [False, True], ids=["off", "running"])
def test_sigkill_at_changes_of_a_clone(
    private_host: private.PrivateHost, host: vmctl.Host, source: vmctl.VM, on: bool
) -> None:
    if on:
        source.start()
    try:
        before = snapshot_of_host(host)
        status, said = clone_and_die(private_host, source, 0)
        assert status == 0
        points = int(said)
        host.get(f"{source.name}-b").delete()
        every = int(os.environ.get("VMCTL_TEST_EVERY", "6"))
        for at in range(1 + (every // 2), points + 1, every):
            status, said = clone_and_die(private_host, source, at)
            assert status == -signal.SIGKILL, said
            found = host.gc()
            names = {entry.name for entry in found}
            left = snapshot_of_host(host)[0] - before[0]
            if left:
                # All of it was made, and recorded as whole.
                assert left == {f"{source.name}-b"}
                host.get(f"{source.name}-b").delete()
            assert names <= {f"{source.name}-b"}
            assert snapshot_of_host(host) == before, (at, said)
            assert host.gc() == []
            assert source.state == ("running" if on else "shut off")
        # The one who was killed is in nobody's way.
        host.get(source.name).clone(f"{source.name}-b").delete()
        assert source._record().exported_by is None
    finally:
        source.stop(timeout=0, force=True)
