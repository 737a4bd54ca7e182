"""A machine's linked disks made to stand alone: while it runs, while it is off, and cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

import vmctl
from vmctl import flatten as flattening
from vmctl.changes import changing
from vmctl.hypervisor import blockjobs, private, uploads

from .conftest import pool_volumes, until_agent

pytestmark = pytest.mark.timeout(300)

SpecMaker = Callable[..., vmctl.VMSpec]


@pytest.fixture
def image(host: vmctl.Host, micro_image: str, tmp_path: Path) -> Iterator[str]:
    """The micro guest's image under a name and a digest of its own."""
    file = tmp_path / "own.qcow2"
    subprocess.run(["cp", "--sparse=always", micro_image, str(file)], check=True)
    with file.open("ab") as handle:
        handle.write(tmp_path.name.encode())
    before = pool_volumes(host)
    host.images.import_file(file, name="flat-base")
    yield "flat-base"
    for entry in host.list():
        if entry.name.startswith("m"):
            host.get(entry.name).delete()
    host.images.prune(everything=True)
    assert pool_volumes(host) - before == set()


def backing_of(host: vmctl.Host, vm: vmctl.VM, target: str = "vda") -> str:
    """Return what libvirt says lies under a disk."""
    (disk,) = [disk for disk in vm.info().disks if disk.target == target]
    pool = host._connection.raw.storagePoolLookupByName("default")
    pool.refresh(0)
    return host.volumes.info(disk.source.rpartition("/")[2]).backing


def test_a_running_machine_lets_go_of_its_image(
    host: vmctl.Host, image: str, make_spec: SpecMaker, tmp_path: Path
) -> None:
    other = tmp_path / "other.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(other), "8M"], check=True)
    host.images.import_file(other, name="other-base")
    vm = host.launch(make_spec(image=image, disks=[{}, {"image": "other-base"}]))
    vm.run("echo mine > ~/mine && sync", check=True)
    before = vm.run("sha256sum /bin/busybox && cat /proc/uptime", check=True).stdout
    told: list[vmctl.Progress] = []
    assert vm.flatten("vda", progress=told.append) == ("vda",)
    assert backing_of(host, vm) == ""
    assert backing_of(host, vm, "vdb") != ""
    assert [report.state for report in told if report.state != "update"] == ["begin", "end"]
    assert "copying into vda" in {report.detail for report in told}
    # The other disk lies on its image still.
    assert host.images.info(image).used_by == ()
    assert vm.name in [user.name for user in host.images.info("other-base").used_by]
    with pytest.raises(vmctl.NotFoundError, match="no disk 'vdz'"):
        vm.flatten("vdz")
    assert vm.flatten() == ("vdb",)
    assert vm.flatten() == ()
    for name in (image, "other-base"):
        assert host.images.remove(name).clones == 0
    # The same guest, which never stopped, and its data.
    after = vm.run("sha256sum /bin/busybox && cat ~/mine", check=True).stdout
    assert after.splitlines()[0] == before.splitlines()[0]
    assert after.splitlines()[1] == "mine"
    found = vm.info()
    assert found.phase == "ready"
    assert [disk.shared for disk in found.disks if disk.device == "disk"] == [0, 0]
    vm.restart()
    vm.wait()
    assert vm.run("cat ~/mine", check=True).stdout.strip() == "mine"
    vm.delete()


def test_a_machine_that_is_off(host: vmctl.Host, image: str, make_spec: SpecMaker) -> None:
    vm = host.create(make_spec(image=image))
    phase = vm.info().phase
    assert vm.flatten() == ("vda",)
    assert (vm.state, vm.info().phase) == ("shut off", phase)
    assert backing_of(host, vm) == ""
    assert host.images.remove(image).used_by == ()
    vm.delete()


def test_nothing_is_lost_when_qemu_is_killed_right_after(
    host: vmctl.Host, image: str, make_spec: SpecMaker, private_host: private.PrivateHost
) -> None:
    vm = host.launch(make_spec(image=image, nics=[], cloud_init=None))
    until_agent(vm)
    assert vm.flatten() == ("vda",)
    assert (vm.state, vm._record().work) == ("running", None)
    namespace = private_host.network_namespace
    assert namespace is not None
    pid = private_host.state_dir / "run" / "libvirt" / "qemu" / f"{vm.name}.pid"
    command = ["kill", "-9", pid.read_text(encoding="ascii").strip()]
    entered = ["nsenter", "--pid", "--mount", "--target", namespace.parts[2]]
    with host._connection.events.listening(vm.uuid) as heard:
        subprocess.run([*entered, *command], check=True)
        assert heard.wait_for(
            lambda: True if vm.state == "shut off" else None, deadline=time.monotonic() + 60
        )
    vm.start()
    until_agent(vm)
    vm.delete()


def test_of_two_in_the_same_moment_one_does_it(
    host: vmctl.Host, image: str, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looked at the machine while it was free, and comes when the first is at it."""
    vm = host.create(make_spec(image=image))
    looked, pulling, refused = threading.Event(), threading.Event(), []
    check, pull = flattening._refuse_without_room, blockjobs.pull

    def checked(*given: Any) -> None:
        check(*given)
        if threading.current_thread() is second:
            looked.set()
            assert pulling.wait(60)

    def pull_beside(*given: Any) -> None:
        pulling.set()
        second.join(60)
        pull(*given)

    def come_second() -> None:
        try:
            host.get(vm.name).flatten()
        except vmctl.ConflictError as error:
            refused.append(error.brief)

    monkeypatch.setattr(flattening, "_refuse_without_room", checked)
    monkeypatch.setattr(blockjobs, "pull", pull_beside)
    second = threading.Thread(target=come_second)
    second.start()
    assert looked.wait(60)
    assert vm.flatten() == ("vda",)
    assert refused == [f"somebody is at work on '{vm.name}': it is flattening"]
    assert (vm.state, vm.info().phase) == ("shut off", "provisioning")
    assert backing_of(host, vm) == ""
    vm.delete()


def test_it_waits_for_a_change_of_the_devices(
    host: vmctl.Host, image: str, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = host.create(make_spec(image=image))
    waits, flat = threading.Event(), []
    take_over = uploads.take_over

    def taken_over(*given: Any, **named: Any) -> None:
        try:
            take_over(*given, **named)
        except vmctl.ConflictError:
            waits.set()
            raise

    thread = threading.Thread(target=lambda: flat.append(vm.flatten()))
    with changing(vm._domain):
        monkeypatch.setattr(uploads, "take_over", taken_over)
        thread.start()
        assert waits.wait(60)
        record = vm._domain.record()
        assert record is not None
        assert (record.phase.value, record.claim) == ("provisioning", None)
    thread.join(120)
    assert flat == [("vda",)]
    vm.delete()


def test_snapshots_keep_the_image(host: vmctl.Host, image: str, make_spec: SpecMaker) -> None:
    vm = host.launch(make_spec(image=image, cloud_init=None))
    vm.snapshots.create("clean")
    with pytest.raises(vmctl.ConflictError, match="has snapshots.*: clean"):
        vm.flatten()
    vm.stop(timeout=0, force=True)
    with pytest.raises(vmctl.ConflictError, match="has snapshots"):
        vm.flatten()
    assert vm.info().phase == "ready"
    vm.delete()


_PROGRAM = """
import sys, libvirt, vmctl
from vmctl.hypervisor import blockjobs
real = blockjobs.pull
def pull(domain, target):
    domain.raw().blockPull(target, 1 << 20, libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
    print("pulling", flush=True)
    if sys.argv[3] == "aside":
        sys.stdin.readline()
blockjobs.pull = pull
with vmctl.connect(sys.argv[1]) as host:
    try:
        host.get(sys.argv[2]).flatten()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_a_client_killed_in_the_middle(
    host: vmctl.Host,
    private_host: private.PrivateHost,
    image: str,
    make_spec: SpecMaker,
    running: bool,
) -> None:
    # Without cloud-init it is ready when it runs.
    spec = make_spec(image=image, **({"cloud_init": None} if running else {}))
    vm = host.launch(spec) if running else host.create(spec)
    phase, volumes = vm.info().phase, pool_volumes(host)
    with _client(host, vm) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "pulling\n"
        assert vm.info().phase == "flattening"
        assert blockjobs.facts_of(vm._domain, "vda") is not None
        assert host.gc() == []
        with pytest.raises(vmctl.ConflictError, match="somebody is"):
            vm.flatten()
        with pytest.raises(vmctl.ConflictError, match="somebody is"):
            vm.snapshots.create("now")
        if not running:
            with pytest.raises(vmctl.ConflictError, match="somebody is"):
                vm.start()
        os.kill(client.pid, signal.SIGKILL)
    (left,) = host.gc(dry_run=True)
    assert (left.name, left.phase, left.volumes) == (vm.name, "flattening", ())
    assert [entry.name for entry in host.gc()] == [vm.name]
    assert host.gc() == []
    # Whole, linked still, and as it was.
    assert vm.info().phase == phase
    assert vm.state == ("running" if running else "shut off")
    assert pool_volumes(host) == volumes
    assert backing_of(host, vm) != ""
    assert vm.name in [user.name for user in host.images.info(image).used_by]
    assert vm.flatten() == ("vda",)
    assert host.images.remove(image).used_by == ()
    if not running:
        # Its seed was not used up by all that: the first boot is still to come.
        vm.start()
        vm.wait()
        assert vm.run("uname -s", check=True).stdout.strip() == "Linux"
    vm.delete()


def test_an_interrupted_one_is_ended(host: vmctl.Host, image: str, make_spec: SpecMaker) -> None:
    vm = host.create(make_spec(image=image, cloud_init=None))
    phase = vm.info().phase
    with _client(host, vm, "awake") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "pulling\n"
        os.kill(client.pid, signal.SIGINT)
        assert client.stdout.read() == "interrupted\n"
    assert (vm.state, vm.info().phase) == ("shut off", phase)
    assert backing_of(host, vm) != ""
    # One that was abandoned is taken over by whoever starts the machine.
    with _client(host, vm) as client:
        assert client.stdout is not None
        client.stdout.readline()
        os.kill(client.pid, signal.SIGKILL)
    assert vm.state == "paused"
    vm.start()
    assert (vm.state, vm.info().phase) == ("running", phase)
    vm.delete()


def _client(host: vmctl.Host, vm: vmctl.VM, how: str = "aside") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, host.uri, vm.name, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_machine_that_goes_off_in_the_middle(
    host: vmctl.Host, image: str, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = host.launch(make_spec(image=image, cloud_init=None))

    def slowly(domain: object, target: str) -> None:
        vm._domain.raw().blockPull(target, 1 << 20, libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
        vm._domain.destroy()

    monkeypatch.setattr(blockjobs, "pull", slowly)
    with pytest.raises(vmctl.WrongStateError, match="which is shut off"):
        vm.flatten()
    monkeypatch.undo()
    assert vm.info().phase == "ready"
    assert backing_of(host, vm) != ""
    assert vm.flatten() == ("vda",)
    vm.delete()


def test_a_pool_that_fills_up(
    host: vmctl.Host, small_pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It unpacks to far more than the pool has, and takes next to nothing itself.
    raw, packed = tmp_path / "raw", tmp_path / "packed.qcow2"
    raw.write_bytes(b"semper eadem\n" * (1 << 20))
    convert = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(packed)]
    subprocess.run(convert, check=True)
    with vmctl.connect(host.uri, pool=small_pool) as there:
        assert there.images.import_file(packed, name="packed").outgrows_pool
        spec = {"name": "full", "image": "packed", "memory": "64MiB", "nics": []}
        vm = there.create(vmctl.VMSpec.model_validate(spec | {"cloud_init": None}))
        with pytest.raises(vmctl.ResourceError, match="filled up"):
            vm.flatten()
        assert vm.state == "shut off"
        assert vm.info().phase != "flattening"
        assert there.images.info("packed").clones == 1
        # Where it is known beforehand, nothing is begun.
        monkeypatch.setattr("vmctl.flatten._allocation", lambda _domain, _path: 1 << 40)
        with pytest.raises(vmctl.ResourceError, match="has no room"):
            vm.flatten()
        vm.delete()
        there.images.remove("packed")
