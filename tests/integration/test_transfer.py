"""Machines out to files and in again: they boot, and their data is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

import vmctl
from vmctl.guest.agent import Agent
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.volumes import at_path
from vmctl.transfer.importing import Incoming

from .conftest import pool_volumes, snapshot_of_host

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]
WORDS = "kept across the move"


@pytest.fixture
def moving(
    host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[vmctl.VM]:
    """A machine that is off, with data in it."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    vm = host.launch(make_spec())
    vm.run(["sh", "-c", f"echo '{WORDS}' > ~/kept && sync"], check=True)
    vm.stop(timeout=30)
    yield vm
    # Nothing stays on the client either.
    assert [path for path in scratch.rglob("*") if path.is_file()] == []
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    if vm.name in {entry.name for entry in host.list()}:
        host.get(vm.name).delete()


@pytest.fixture(scope="module")
def stopped(host: vmctl.Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vmctl.VM]:
    """A machine that is off, with a disk of data and no guest, for the tests that leave it so."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "raw").write_bytes(os.urandom(8 << 20))
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*command, str(folder / "raw"), str(folder / "qcow2")], check=True)
    spec = vmctl.VMSpec.model_validate(
        {
            "name": f"s{uuid.uuid4().hex[:8]}",
            "memory": "64MiB",
            "disks": [{"size": "16MiB"}],
            "nics": [],
        }
    )
    vm = host.import_machine(folder / "qcow2", spec=spec)
    try:
        yield vm
    finally:
        vm.delete()


@pytest.fixture
def still(stopped: vmctl.VM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vmctl.VM]:
    """The machine that is off, and what an export of it may leave on the client."""
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        yield stopped
    assert [path for path in scratch.rglob("*") if path.is_file()] == []
    assert stopped.state == "shut off"


def boots_with_data(vm: vmctl.VM, *, via: str = "agent") -> None:
    vm.start()
    try:
        vm.wait()
        if via == "agent":
            agent = Agent(vm._domain)
            deadline = time.monotonic() + 90
            assert Signal().wait_for(
                lambda: agent.answers() or None, deadline=deadline, recheck=0.5
            )
        done = vm.run(["sh", "-c", "cat /home/*/kept"], check=True, via=via)  # type: ignore[arg-type]
        assert done.stdout.strip() == WORDS
    finally:
        vm.delete()


@pytest.mark.parametrize("form", ["qcow2", "raw", "vmdk"])
def test_a_disk_there_and_back(
    host: vmctl.Host, moving: vmctl.VM, tmp_path: Path, form: str
) -> None:
    path = tmp_path / f"moved.{form}"
    moving.export(path, format=form)
    assert path.stat().st_mode & 0o077 == 0
    moving.delete()
    boots_with_data(host.import_machine(path, name=moving.name))


@pytest.mark.parametrize("form", ["vdi", "vpc", "vhdx"])
def test_a_disk_of_another_hypervisor(
    host: vmctl.Host, moving: vmctl.VM, tmp_path: Path, form: str
) -> None:
    moving.export(tmp_path / "moved.qcow2")
    other = tmp_path / f"moved.{form}"
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", form]
    subprocess.run([*command, str(tmp_path / "moved.qcow2"), str(other)], check=True)
    boots_with_data(host.import_machine(other, name=f"{moving.name}-b"))


def test_an_ova_there_and_back(host: vmctl.Host, moving: vmctl.VM, tmp_path: Path) -> None:
    path = tmp_path / "moved.ova"
    moving.export(path, format="ova")
    found = host.preview_import(path)
    assert found.kind == "ova"
    assert found.spec.name == moving.name
    assert found.spec.disks[0].bus == "sata"
    moving.delete()
    boots_with_data(host.import_machine(path))


@pytest.fixture
def other_host(client_home: Path) -> Iterator[vmctl.Host]:
    """A second host, which has nothing of the first one's, and is left so."""
    started = private.start(f"u{os.getpid()}", tether=True)
    try:
        with vmctl.connect(f"private:{started.name}") as connection:
            assert connection.list() == []
            assert pool_volumes(connection) == set()
            yield connection
            assert connection.list() == []
            assert pool_volumes(connection) == set()
    finally:
        private.stop(started.name, force=True)


def test_a_bundle_is_the_same_machine_on_another_host(
    other_host: vmctl.Host, moving: vmctl.VM, tmp_path: Path
) -> None:
    path = tmp_path / "moved.vmctl"
    before = moving.info()
    moving.export(path, format="bundle")
    vm = other_host.import_machine(path)
    after = vm.info()
    assert (after.name, after.host_key, after.ssh_user) == (
        before.name, before.host_key, before.ssh_user,
    )  # fmt: skip
    assert [nic.mac for nic in after.nics] == [nic.mac for nic in before.nics]
    assert after.uuid != before.uuid
    assert after.phase == "ready"
    # Over SSH, with the host key that the guest brought; its original is not asked.
    assert moving.state == "shut off"
    boots_with_data(vm, via="ssh")


def test_a_bundle_through_a_pipe_beside_its_original(host: vmctl.Host, moving: vmctl.VM) -> None:
    reading, writing = os.pipe()

    def send() -> None:
        with os.fdopen(writing, "wb") as target:
            moving.export(target, format="bundle")

    thread = threading.Thread(target=send)
    thread.start()
    seen: list[Incoming] = []
    try:
        with os.fdopen(reading, "rb") as source:
            copy = host.import_machine(source, name=f"{moving.name}-b", review=seen.append)
    finally:
        thread.join()
    # Two machines of one address can't live side by side.
    assert "gets another" in " ".join(seen[0].warnings)
    assert copy.info().nics[0].mac != moving.info().nics[0].mac
    copy.delete()


def test_a_machine_that_runs_is_not_exported(
    host: vmctl.Host, still: vmctl.VM, tmp_path: Path
) -> None:
    still.start()
    try:
        with pytest.raises(vmctl.WrongStateError, match="its disks change"):
            still.export(tmp_path / "moved.qcow2")
    finally:
        still.stop(timeout=0, force=True)
    assert not (tmp_path / "moved.qcow2").exists()


class Once:
    """Does something at the first report of an export that says that a volume is being read."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.done = False

    def __call__(self, report: vmctl.Progress) -> None:
        if not self.done and report.detail.startswith("downloading"):
            self.done = True
            self._act()


def _write_to_disk(vm: vmctl.VM) -> None:
    (disk,) = vm._domain.disks()
    at_path(vm._domain.connection, disk.path).resize(600 << 20)


def _start_and_end(vm: vmctl.VM) -> None:
    raw = vm._domain.raw()
    raw.create()
    raw.destroy()


def _switch_disk(vm: vmctl.VM) -> None:
    xml = "<domainsnapshot><name>theirs</name></domainsnapshot>"
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    vm._domain.raw().snapshotCreateXML(xml, flags | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda vm: vm._domain.raw().create(), "was started"),
        (_start_and_end, "was started"),
        (_write_to_disk, "a disk of it was changed"),
        (_switch_disk, "its disks were switched"),
    ],
    ids=["start", "start and end", "write", "switch"],
)
def test_what_virsh_does_to_a_machine_that_is_being_exported(
    host: vmctl.Host, still: vmctl.VM, tmp_path: Path, act: Callable[[vmctl.VM], None], why: str
) -> None:
    (disk,) = still._domain.disks()
    definition = still.xml(inactive=True)
    hook = Once(lambda: act(still))
    try:
        with pytest.raises(vmctl.ConflictError, match=why):
            still.export(tmp_path / "moved.vmctl", format="bundle", progress=hook)
    finally:
        still._domain.destroy()
        (now,) = still._domain.disks()
        if now != disk:
            host._connection.raw.defineXML(definition)
            pool_volumes(host)
            at_path(host._connection, now.path).delete()
    assert hook.done
    assert list(tmp_path.iterdir()) == []
    assert still._record().exported_by is None
    # Nobody else's start, and nothing of its own, is in the way of the next one.
    still.export(tmp_path / "moved.qcow2")


def test_a_machine_that_is_being_exported_is_left_alone_by_vmctl(
    host: vmctl.Host, still: vmctl.VM, tmp_path: Path
) -> None:
    still.snapshots.create("before")
    (disk,) = still._domain.disks()
    refused: list[str] = []

    def try_all() -> None:
        volume = at_path(host._connection, disk.path)
        verbs: list[Callable[[], object]] = [
            still.start,
            still.restart,
            still.delete,
            lambda: still.snapshots.create("meanwhile"),
            lambda: still.snapshots.revert("before"),
            lambda: still.snapshots.delete("before"),
            lambda: still.export(tmp_path / "second.qcow2"),
            lambda: host.volumes.grow(f"{volume.pool}/{volume.name}", "1GiB"),
        ]
        for verb in verbs:
            with pytest.raises(vmctl.ConflictError, match="is being exported or cloned by process"):
                verb()
            refused.append(repr(verb))
        assert host.gc() == []

    still.export(tmp_path / "moved.qcow2", progress=Once(try_all))
    assert len(refused) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["moved.qcow2"]
    still.snapshots.delete("before")


def test_an_export_that_was_killed_blocks_nothing_and_leaves_nothing(
    private_host: private.PrivateHost, host: vmctl.Host, still: vmctl.VM, tmp_path: Path
) -> None:
    program = (
        "import os, signal, vmctl\n"
        "def die(progress):\n"
        "    if progress.detail.startswith('compressing') and (progress.fraction or 0) > 0.5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"with vmctl.connect('private:{private_host.name}') as host:\n"
        f"    host.get('{still.name}').export('{tmp_path}/moved.vmctl', format='bundle',"
        " progress=die)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert still._record().exported_by is not None
    assert list(tmp_path.iterdir()) != []
    # It is whole, and somebody else's: nothing for `gc`.
    assert host.gc() == []
    still.snapshots.create("after")
    still.snapshots.delete("after")
    still.export(tmp_path / "moved.vmctl", format="bundle")
    assert still._record().exported_by is None
    assert [path.name for path in tmp_path.iterdir()] == ["moved.vmctl"]


def test_targets_that_are_there_and_names_that_are_taken(
    host: vmctl.Host, still: vmctl.VM, tmp_path: Path
) -> None:
    path = tmp_path / "moved.vmctl"
    path.write_text("mine")
    with pytest.raises(vmctl.ConflictError, match="already"):
        still.export(path, format="bundle")
    assert path.read_text() == "mine"
    still.export(path, format="bundle", replace=True)
    with pytest.raises(vmctl.ConflictError, match="there is a machine"):
        host.import_machine(path)
    before = snapshot_of_host(host)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(vmctl.ImageError, match="was cut off"):
        host.import_machine(path, name=f"{still.name}-b")
    assert snapshot_of_host(host) == before


def test_an_import_that_was_killed_is_found_by_gc(
    private_host: private.PrivateHost, host: vmctl.Host, still: vmctl.VM, tmp_path: Path
) -> None:
    path = tmp_path / "moved.vmctl"
    still.export(path, format="bundle")
    before = pool_volumes(host)
    program = (
        "import os, signal, vmctl\n"
        "def die(progress):\n"
        "    if progress.phase == 'disks' and (progress.fraction or 0) > 0.3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"with vmctl.connect('private:{private_host.name}') as host:\n"
        f"    host.import_machine({str(path)!r}, name='{still.name}-b', progress=die)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert pool_volumes(host) != before
    assert [entry.name for entry in host.gc()] == [f"{still.name}-b"]
    assert pool_volumes(host) == before
    # What it had unpacked on the client goes with the next one.
    still.export(tmp_path / "again.vmctl", format="bundle")


def test_a_pool_that_is_too_full(
    private_host: private.PrivateHost,
    host: vmctl.Host,
    still: vmctl.VM,
    tmp_path: Path,
    small_pool: str,
) -> None:
    path = tmp_path / "moved.qcow2"
    still.export(path)
    before = snapshot_of_host(host)
    with (
        vmctl.connect(f"private:{private_host.name}", pool=small_pool) as other,
        pytest.raises(vmctl.ResourceError, match="has no room"),
    ):
        other.import_machine(path, name=f"{still.name}-b")
    assert snapshot_of_host(host) == before
