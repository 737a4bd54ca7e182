"""Backups and restores that end early: the machine is as it was, and nothing is left."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

import vmctl
from vmctl.backing_up import taking
from vmctl.backing_up.target import Target
from vmctl.hypervisor import backups, private

from .conftest import forget_lost, libvirtd_pid, pool_volumes, process_of

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]
_ROOT = Path(__file__).resolve().parents[2]


def blank_machine(host: vmctl.Host, folder: Path, size: int = 4) -> vmctl.VM:
    """Make a machine without a guest, off, with so many MiB of random data on its one disk."""
    (folder / "raw").write_bytes(os.urandom(1 << 20) * size)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*command, str(folder / "raw"), str(folder / "qcow2")], check=True)
    fields = {"memory": "64MiB", "disks": [{"size": f"{2 * size}MiB"}], "nics": []}
    spec = vmctl.VMSpec.model_validate({"name": f"f{uuid.uuid4().hex[:8]}", **fields})
    return host.import_machine(folder / "qcow2", spec=spec)


@pytest.fixture(scope="module")
def module_vm(host: vmctl.Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vmctl.VM]:
    vm = blank_machine(host, tmp_path_factory.mktemp("disk"))
    try:
        yield vm
    finally:
        vm.delete()


@pytest.fixture(scope="module")
def module_large(host: vmctl.Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vmctl.VM]:
    vm = blank_machine(host, tmp_path_factory.mktemp("disk"), size=512)
    try:
        yield vm
    finally:
        vm.delete()


@pytest.fixture
def large(host: vmctl.Host, module_large: vmctl.VM) -> Iterator[vmctl.VM]:
    """A machine like that, with more data than QEMU has written before it is told to be slow."""
    module_large.start()
    before = pool_volumes(host)
    yield module_large
    assert module_large.info().phase == "ready"
    assert pool_volumes(host) == before


@pytest.fixture
def vm(host: vmctl.Host, module_vm: vmctl.VM) -> Iterator[vmctl.VM]:
    """A machine that runs, whose firmware finds nothing to boot; a test leaves no trace on it."""
    module_vm.start()
    before = pool_volumes(host)
    yield module_vm
    assert module_vm.info().phase == "ready"
    assert pool_volumes(host) == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "all"


def raw(host: vmctl.Host, vm: vmctl.VM) -> Any:
    return host._connection.raw.lookupByUUIDString(vm.uuid)


def checkpoints(host: vmctl.Host, vm: vmctl.VM, folder: Path) -> list[str]:
    """Return those that belong to a folder; each has its own."""
    names = [found.getName() for found in raw(host, vm).listAllCheckpoints(0)]
    return sorted(name for name in names if Target.open(folder).id in name)


def kinds(folder: Path) -> list[tuple[str, str]]:
    return [(entry.kind, entry.problem) for entry in vmctl.Backups(folder).list()]


@pytest.fixture
def slow(host: vmctl.Host, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let QEMU write what it writes of backups slowly; the event says that one has begun."""
    begun, begin = threading.Event(), backups.begin

    def begin_slowly(domain: Any, *arguments: Any, **options: Any) -> Any:
        refusal = begin(domain, *arguments, **options)

        def ask(command: str, **words: Any) -> Any:
            text = json.dumps({"execute": command, "arguments": words})
            return json.loads(libvirt_qemu.qemuMonitorCommand(domain.raw(), text, 0))["return"]

        for job in ask("query-jobs"):
            ask("block-job-set-speed", device=job["id"], speed=65536)
        begun.set()
        return refusal

    monkeypatch.setattr(backups, "begin", begin_slowly)
    return begun


def in_the_middle(
    vm: vmctl.VM, folder: Path, slow: threading.Event, act: Callable[[], object]
) -> vmctl.VmctlError | None:
    """Do something while a backup is written; returns what the backup raised."""
    raised: list[vmctl.VmctlError] = []

    def back_up() -> None:
        try:
            vm.backup(folder, full=True)
        except vmctl.VmctlError as error:
            raised.append(error)

    thread = threading.Thread(target=back_up)
    thread.start()
    assert slow.wait(60)
    act()
    thread.join(120)
    assert not thread.is_alive()
    return raised[0] if raised else None


@pytest.mark.parametrize("phase", ["backup", "download"])
def test_one_that_is_interrupted_does_not_count(
    host: vmctl.Host, vm: vmctl.VM, folder: Path, phase: str
) -> None:
    first = vm.backup(folder)
    before = checkpoints(host, vm, folder)

    def interrupt(report: vmctl.Progress) -> None:
        if report.phase == phase and (phase == "download" or report.state == "update"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vm.backup(folder, full=True, progress=interrupt)
    assert checkpoints(host, vm, folder) == before
    assert [entry.id for entry in vmctl.Backups(folder).list()] == [first.id]
    assert sorted(path.name for path in (folder / vm.uuid).iterdir()) == [".lock", first.id]
    # The chain goes on as if there had been none.
    assert vm.backup(folder).parent == first.id


@pytest.mark.parametrize("by", ["stop", "signal"])
def test_a_machine_that_is_ended_ends_its_backup(
    host: vmctl.Host,
    large: vmctl.VM,
    folder: Path,
    slow: threading.Event,
    private_host: private.PrivateHost,
    by: str,
) -> None:
    def end() -> None:
        if by == "stop":
            large.stop(force=True, timeout=0)
        else:
            # It cancels the backup, and is there for another while.
            namespace = private_host.network_namespace
            assert namespace is not None
            pid = private_host.state_dir / "run" / "libvirt" / "qemu" / f"{large.name}.pid"
            entered = ["nsenter", "--pid", "--mount", "--target", namespace.parts[2]]
            subprocess.run([*entered, "kill", pid.read_text().strip()], check=True)

    raised = in_the_middle(large, folder, slow, end)
    assert isinstance(raised, vmctl.WrongStateError), raised
    assert "shut off" in raised.brief
    assert large.state == "shut off"
    assert kinds(folder) == []


def test_libvirtd_is_restarted_in_the_middle(
    host: vmctl.Host,
    large: vmctl.VM,
    folder: Path,
    slow: threading.Event,
    private_host: private.PrivateHost,
) -> None:
    state = raw(host, large).state()

    def restart() -> None:
        os.kill(libvirtd_pid(private_host), signal.SIGTERM)
        # It goes on at full speed, whoever is there to see it.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                domain = raw(host, large)
                text = json.dumps({"execute": "query-jobs"})
                for job in json.loads(libvirt_qemu.qemuMonitorCommand(domain, text, 0))["return"]:
                    speed = {"device": job["id"], "speed": 0}
                    again = json.dumps({"execute": "block-job-set-speed", "arguments": speed})
                    libvirt_qemu.qemuMonitorCommand(domain, again, 0)
            except (libvirt.libvirtError, vmctl.VmctlError):
                continue
            else:
                return

    raised = in_the_middle(large, folder, slow, restart)
    ends = (vmctl.HypervisorError, vmctl.HostUnavailableError)
    assert raised is None or isinstance(raised, ends), raised
    assert raw(host, large).state() == state
    assert kinds(folder) == ([("full", "")] if raised is None else [])
    assert len(checkpoints(host, large, folder)) == len(kinds(folder))


def test_libvirtd_is_killed_while_a_backup_begins(
    private_host: private.PrivateHost,
    host: vmctl.Host,
    vm: vmctl.VM,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libvirt then waits for its end until QEMU ends, which is said at once."""
    qemu = process_of(private_host, "qemu-system-x86", of=f"guest={vm.name},")
    begin = backups.begin

    def kill() -> None:
        # Nearly all that can be asked is asked of QEMU, and waits for it as well.
        other = libvirt.open(private_host.uri)
        domain = other.lookupByUUIDString(vm.uuid)
        while domain.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_JOB:
            assert time.monotonic() < deadline
        os.kill(libvirtd_pid(private_host), signal.SIGKILL)

    def begins(*args: Any, **options: Any) -> Any:
        os.kill(qemu, signal.SIGSTOP)
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            return begin(*args, **options)
        finally:
            killer.join()
            os.kill(qemu, signal.SIGCONT)

    deadline = time.monotonic() + 60
    with monkeypatch.context() as patched:
        patched.setattr(backups, "begin", begins)
        with pytest.raises(vmctl.VmctlError):
            vm.backup(folder)
    assert kinds(folder) == []

    with pytest.raises(vmctl.WrongStateError, match="waits for ever") as caught:
        vm.backup(folder)
    assert "stop it, restart libvirtd" in caught.value.hint
    with pytest.raises(vmctl.WrongStateError, match="waits for ever"):
        vm.snapshots.create("new")
    assert vm.state == "running"
    forget_lost(private_host, vm)
    vm.start()
    assert vm.backup(folder).kind == "full"
    assert kinds(folder) == [("full", "")]


def test_two_at_once(
    host: vmctl.Host, large: vmctl.VM, folder: Path, slow: threading.Event
) -> None:
    def try_others() -> None:
        with pytest.raises(vmctl.ConflictError, match="backing-up"):
            large.backup(folder)
        with pytest.raises(vmctl.ConflictError, match="backing-up"):
            large.backup(folder.with_name("other"))
        with pytest.raises(vmctl.ConflictError, match="making or removing backups"):
            vmctl.Backups(folder).prune(vmctl.Retention(last=1))
        raw(host, large).abortJob()

    raised = in_the_middle(large, folder, slow, try_others)
    assert isinstance(raised, vmctl.HypervisorError)
    assert "failed" in raised.brief
    assert checkpoints(host, large, folder) == []


def test_it_takes_too_long(large: vmctl.VM, folder: Path, slow: threading.Event) -> None:
    with pytest.raises(vmctl.WaitTimeoutError, match="not written within 1 s"):
        large.backup(folder, timeout=1)
    assert kinds(folder) == []


def test_the_target_fills_up(host: vmctl.Host, vm: vmctl.VM, folder: Path) -> None:
    first = vm.backup(folder)
    before = checkpoints(host, vm, folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(vmctl.ResourceError, match="can't write the backup"):
            vm.backup(folder, full=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints(host, vm, folder) == before
    assert sorted(path.name for path in (folder / vm.uuid).iterdir()) == [".lock", first.id]


def test_the_pool_is_full_or_fills_up(
    host: vmctl.Host,
    vm: vmctl.VM,
    folder: Path,
    small_pool: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = host._connection.raw.storagePoolLookupByName(small_pool)
    xml = "<volume><name>ballast</name><capacity>4194304</capacity></volume>"
    ballast = pool.createXML(xml, 0)
    try:
        with pytest.raises(vmctl.ResourceError, match="has no room"):
            vm.backup(folder, pool=small_pool)
        monkeypatch.setattr(taking._Taking, "_refuse_without_room", lambda *_arguments: None)
        with pytest.raises(vmctl.ResourceError, match=r"filled up|has no room"):
            vm.backup(folder, pool=small_pool)
        pool.refresh(0)
        assert pool.listVolumes() == ["ballast"]
    finally:
        ballast.delete(0)
    assert vm.state == "running"
    assert checkpoints(host, vm, folder) == []
    assert kinds(folder) == []


def test_without_an_agent_it_says_so(vm: vmctl.VM, folder: Path) -> None:
    with pytest.raises(vmctl.GuestError):
        vm.backup(folder, quiesce=True)
    made = vm.backup(folder)
    assert made.consistency == "crash-consistent"
    assert "were not frozen" in made.remarks[0]
    assert vm.backup(folder, quiesce=False).remarks == ()


def test_a_raw_disk_is_backed_up_in_full_each_time(
    host: vmctl.Host, make_spec: SpecMaker, folder: Path, tmp_path: Path
) -> None:
    vm = host.create(
        make_spec(disks=[{"size": "2MiB", "format": "raw"}], image=None, cloud_init=None)
    )
    made = [vm.backup(folder) for _ in range(2)]
    assert [(entry.kind, entry.consistency) for entry in made] == [("full", "off")] * 2
    assert made[1].why == (
        "the disk vda is raw, and only a qcow2 one keeps track of what is changed"
    )
    assert checkpoints(host, vm, folder) == []
    vm.restore(folder)
    assert raw(host, vm).XMLDesc().count("type='raw'") >= 1
    vm.delete()


def test_a_host_without_checkpoints_makes_full_ones_and_says_so(
    host: vmctl.Host, vm: vmctl.VM, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = libvirt.virDomain.backupBegin

    def refuse(domain: Any, xml: str, checkpoint: str | None, flags: int = 0) -> Any:
        # As a libvirt answers whose QEMU is too old for them.
        if checkpoint is not None:
            text = "cannot create checkpoint while incremental backup is not supported"
            error = libvirt.libvirtError(text)
            error.err = (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, 10, text, 2, None, None, None, 0, 0)
            raise error
        return begin(domain, xml, checkpoint, flags)

    monkeypatch.setattr(libvirt.virDomain, "backupBegin", refuse)
    made = [vm.backup(folder) for _ in range(2)]
    assert [entry.kind for entry in made] == ["full", "full"]
    assert [entry.why for entry in made] == ["this host keeps no checkpoints of its disks"] * 2
    assert kinds(folder) == [("full", "")] * 2
    assert [entry.problem for entry in vmctl.Backups(folder).verify()] == ["", ""]
    assert checkpoints(host, vm, folder) == []


def test_nobody_reads_the_stream(host: vmctl.Host, vm: vmctl.VM) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    before = raw(host, vm).listAllCheckpoints(0)
    with (
        os.fdopen(writer, "wb", buffering=0) as stream,
        pytest.raises(vmctl.ResourceError, match="takes no more"),
    ):
        vm.backup(stream)
    assert len(raw(host, vm).listAllCheckpoints(0)) == len(before)


def test_a_machine_moves_to_another_host(host: vmctl.Host, folder: Path, tmp_path: Path) -> None:
    vm = blank_machine(host, tmp_path)
    old = content(vm, tmp_path)
    vm.backup(folder)
    vm.delete()
    other = private.start(f"u{os.getpid()}", tether=True)
    try:
        with vmctl.connect(f"private:{other.name}") as there:
            again = there.restore(folder)
            assert (again.name, again.state) == (vm.name, "shut off")
            assert content(again, tmp_path) == old
            assert again.backup(folder).kind == "full"
    finally:
        private.stop(other.name, force=True)


def test_a_snapshot_ends_the_chain_and_can_be_reverted(
    host: vmctl.Host, folder: Path, tmp_path: Path
) -> None:
    vm = blank_machine(host, tmp_path)
    for running in (True, False):
        if running:
            vm.start()
        vm.backup(folder)
        assert checkpoints(host, vm, folder)
        # QEMU would end on the way back, if a disk still kept track.
        vm.snapshots.create("kept", kind="internal")
        assert checkpoints(host, vm, folder) == []
        made = vm.backup(folder)
        assert (made.kind, made.why[:23]) == ("full", "snapshots lie in its di")
        assert checkpoints(host, vm, folder) == []
        vm.snapshots.revert("kept")
        assert vm.state == ("running" if running else "shut off")
        vm.snapshots.delete("kept")
        assert vm.backup(folder).why == "the disks kept no track when the one before it was made"
        assert vm.backup(folder).kind == "incremental"
        if running:
            vm.stop(force=True, timeout=0)
    vm.delete()


def test_an_external_snapshot_keeps_the_chain_until_layers_go(
    host: vmctl.Host, folder: Path, tmp_path: Path
) -> None:
    vm = blank_machine(host, tmp_path)
    old = content(vm, tmp_path)
    vm.start()
    vm.backup(folder)
    vm.snapshots.create("layer", kind="external", memory=False)
    assert vm.backup(folder).kind == "incremental"
    vm.stop(force=True, timeout=0)
    assert vm.backup(folder).kind == "incremental"
    vm.snapshots.delete("layer")
    made = vm.backup(folder)
    assert made.why == "the disk vda is another one: it was reverted, restored or merged"
    vm.restore(folder)
    assert content(vm, tmp_path) == old
    vm.delete()


# -- clients that are killed --------------------------------------------------------------------


def die(private_host: private.PrivateHost, at: int, *what: str) -> tuple[int, str]:
    done = subprocess.run(
        [
            *[sys.executable, "-m", "tests.integration.killing_client"],
            *[f"private:{private_host.name}", str(at), *what],
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=_ROOT,
        timeout=120,
    )
    return done.returncode, done.stdout.strip()


def test_sigkill_in_a_backup(
    host: vmctl.Host, vm: vmctl.VM, folder: Path, private_host: private.PrivateHost
) -> None:
    before = pool_volumes(host)
    first = vm.backup(folder)
    status, said = die(private_host, 0, "backup", vm.name, str(folder))
    assert status == 0
    points = int(said)
    expected = 2
    for at in range(1, points + 1, max(1, points // 5)):
        status, said = die(private_host, at, "backup", vm.name, str(folder))
        assert status == -signal.SIGKILL, said
        host.gc(dry_run=True)
        host.gc()
        assert host.gc() == []
        assert pool_volumes(host) == before, said
        assert (vm.state, vm.info().phase) == ("running", "ready"), said
        listed = vmctl.Backups(folder).list()
        # It counts, or it does not; it is never half of one.
        assert len(listed) - expected in {0, 1}, said
        made = vm.backup(folder)
        expected = len(listed) + 1
        assert len(checkpoints(host, vm, folder)) == 1, said
        assert made.kind == "incremental" or "forgotten" in made.why, (said, made.why)
    assert {entry.problem for entry in vmctl.Backups(folder).verify()} == {""}
    assert first.id in {entry.id for entry in vmctl.Backups(folder).list()}


def content(vm: vmctl.VM, tmp_path: Path) -> bytes:
    path = tmp_path / f"{uuid.uuid4().hex}.raw"
    vm.export(path, format="raw")
    return path.read_bytes()


def test_sigkill_in_a_restore_leaves_the_disks_of_before_or_of_after(
    host: vmctl.Host, folder: Path, tmp_path: Path, private_host: private.PrivateHost
) -> None:
    vm = blank_machine(host, tmp_path)
    old = content(vm, tmp_path)
    vm.backup(folder)
    volumes = pool_volumes(host)
    status, said = die(private_host, 0, "restore", vm.name, str(folder))
    assert status == 0
    points = int(said)
    names = set()
    # Of the last calls, one makes the new definition, and what follows tidies up.
    for at in (1, points // 2, *range(points - 5, points)):
        before = disk_of(host, vm)
        status, said = die(private_host, at, "restore", vm.name, str(folder))
        # How many calls there are differs by a few.
        assert status in {-signal.SIGKILL, 0}
        if vm.info().phase == "restoring":
            vm.start()
            vm.stop(force=True, timeout=0)
        host.gc()
        assert host.gc() == []
        assert vm.info().phase == "ready", said
        assert len(pool_volumes(host)) == len(volumes), said
        names.add(disk_of(host, vm) == before)
        assert content(vm, tmp_path) == old, said
    # Some were before it, some after it.
    assert names == {True, False}
    assert vm.backup(folder).kind == "full"
    vm.delete()


def disk_of(host: vmctl.Host, vm: vmctl.VM) -> str:
    xml: str = raw(host, vm).XMLDesc()
    return xml.split("source file='")[1].split("'", maxsplit=1)[0]


def test_what_a_restore_refuses(host: vmctl.Host, folder: Path, tmp_path: Path) -> None:
    vm = blank_machine(host, tmp_path)
    made = vm.backup(folder)
    other = blank_machine(host, tmp_path)
    before = pool_volumes(host), {entry.name for entry in host.list()}
    with pytest.raises(vmctl.NotFoundError, match="there is no backup"):
        other.restore(folder)
    with pytest.raises(vmctl.ConflictError, match="already"):
        host.restore(folder, name=other.name)
    with pytest.raises(vmctl.NotFoundError):
        vm.restore(folder, id="20200101T000000000000Z")
    path = folder / vm.uuid / made.id / "disk-vda.qcow2"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for restore in (vm.restore, lambda place: host.restore(place, name="never")):
        with pytest.raises(vmctl.ImageError, match="its digest differs"):
            restore(folder)
    path.write_bytes(whole)
    vm.start()
    with pytest.raises(vmctl.WrongStateError, match="in use"):
        vm.restore(folder)
    vm.stop(force=True, timeout=0)
    assert before == (pool_volumes(host), {entry.name for entry in host.list()})
    vm.restore(folder)
    vm.delete()
    other.delete()
