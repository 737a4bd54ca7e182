"""External snapshots: of a machine with a raw disk, which can have no other."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lxml import etree

import vmctl
from vmctl.errors import ConflictError, GuestUnreachableError, NotFoundError, UnsupportedError
from vmctl.hypervisor import private
from vmctl.hypervisor.metadata import Role
from vmctl.hypervisor.snapshots import list_details
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.integrity import broken_images

from .conftest import pool_volumes
from .test_uefi import MOUNT, VARIABLE, WRITE

pytestmark = pytest.mark.timeout(600)

SpecMaker = Callable[..., vmctl.VMSpec]

COUNTING = (
    "cd /dev/shm; sh -c "
    "'n=0; while :; do n=$((n+1)); echo $n > new; mv new count; sleep 0.2; done' "
    "</dev/null >/dev/null 2>&1 & echo $! > /dev/shm/pid; "
    "until [ -e /dev/shm/count ]; do sleep 0.1; done"
)


@pytest.fixture(scope="module")
def mixed(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    """A running machine with a qcow2 disk and a raw one."""
    before = pool_volumes(host)
    spec = {
        "name": "mixed",
        "image": micro_image,
        "memory": "192MiB",
        "nics": [{"user": True}],
        "disks": [{}, {"size": "8MiB", "format": "raw"}],
        "labels": {"role": "test"},
    }
    machine = host.launch(vmctl.VMSpec.model_validate(spec))
    try:
        yield machine
    finally:
        machine.delete()
    left = {name for name in pool_volumes(host) - before if not name.startswith("sha256-")}
    assert left == set()


def write(vm: vmctl.VM, word: str) -> None:
    """Write a word to both disks and to the memory."""
    vm.run(
        f"echo {word} | sudo -n tee /etc/word && echo {word} > /dev/shm/word && "
        f"echo {word} | sudo -n dd of=/dev/vdb bs=512 conv=sync status=none && sync",
        check=True,
    )


def read(vm: vmctl.VM) -> tuple[str, str]:
    """Return the word on each disk."""
    said = vm.run(
        "cat /etc/word; sudo -n dd if=/dev/vdb bs=512 count=1 status=none | tr -d '\\0'", check=True
    )
    first, second = said.stdout.split()
    return first, second


def consistent(host: vmctl.Host, vm: vmctl.VM) -> None:
    """Check that what the record lists is what there is, and that the machine is nobody's work."""
    record = vm._record()
    assert record.phase in {"ready", "provisioning"}
    assert (record.claim, record.work, record.before) == (None, None, None)
    there = {name for name in pool_volumes(host) if vm.uuid in name}
    assert there == {volume.name for volume in record.volumes}
    # No snapshot, nor the next start that it holds, names a file that is gone.
    for entry in list_details(vm._domain):
        assert {Path(path).name for path in entry.files if vm.uuid in path} <= there


def in_tree(vm: vmctl.VM) -> dict[str, str]:
    """Return libvirt's own tree: parent by name."""
    found = {}
    for entry in vm._domain.raw().listAllSnapshots():
        root = etree.fromstring(entry.getXMLDesc(0))
        found[entry.getName()] = root.findtext("parent/name") or ""
    return found


def test_memory_and_disks_come_back_again_and_again_in_a_tree(
    host: vmctl.Host, mixed: vmctl.VM
) -> None:
    vm = mixed
    with pytest.raises(UnsupportedError, match="the disk 'vdb' is raw"):
        vm.snapshots.create("one", kind="internal")
    choice = vm.snapshots.choice()
    assert (choice.kind, choice.memory) == ("external", True)
    assert choice.why == "the disk 'vdb' is raw, which holds no snapshots"
    write(vm, "one")
    vm.run(COUNTING, timeout=60, check=True)
    pid = vm.run("cat /dev/shm/pid", check=True).stdout.strip()
    boot = vm.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout

    one = vm.snapshots.create("one", description="the first")
    assert (one.kind, one.memory, one.state, one.current) == ("external", True, "running", True)
    assert (one.description, one.why) == ("the first", choice.why)
    consistent(host, vm)
    assert read(vm) == ("one", "one")
    count = int(vm.run("cat /dev/shm/count", check=True).stdout)
    vm.run(f"kill {pid}", check=True)
    write(vm, "two")
    vm.snapshots.create("two")
    write(vm, "three")
    # The present is kept, and is a branch of its own.
    vm.snapshots.revert("one", keep="three")
    consistent(host, vm)
    assert read(vm) == ("one", "one")
    assert vm.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout == boot
    # What ran then runs on.
    later = vm.run(
        f"test -d /proc/{pid} && n=$(cat /dev/shm/count); "
        "while [ $(cat /dev/shm/count) -le $n ]; do sleep 0.1; done; echo $n",
        check=True,
        timeout=60,
    )
    assert int(later.stdout) < count + 100
    write(vm, "four")
    vm.snapshots.create("four")
    assert in_tree(vm) == {"one": "", "two": "one", "three": "two", "four": "one"}

    # Forward again, into the other branch, and to where it was kept.
    for word in ("three", "two", "four", "one"):
        vm.snapshots.revert(word)
        assert read(vm) == (word, word)
        assert vm.run("cat /dev/shm/word", check=True).stdout == f"{word}\n"
        assert [entry.name for entry in vm.snapshots.list() if entry.current] == [word]
        write(vm, "lost")
    consistent(host, vm)
    info = vm.info()
    assert info.snapshots == ("one", "two", "three", "four")
    assert (info.phase, info.labels) == ("ready", {"role": "test"})


def clean(vm: vmctl.VM) -> None:
    """Take the snapshots of a test away, as far as libvirt knows of them."""
    for entry in vm._domain.raw().listAllSnapshots():
        entry.delete(2)


@pytest.fixture
def vm(mixed: vmctl.VM) -> Iterator[vmctl.VM]:
    """Give that machine, running, and without snapshots afterwards."""
    mixed.start()
    mixed.wait()
    yield mixed
    clean(mixed)


def test_disks_alone_hold_what_was_not_written_yet(host: vmctl.Host, vm: vmctl.VM) -> None:
    write(vm, "old")
    # It is in the guest's memory only, and nobody else is going to write it for a while.
    vm.run("echo fresh | sudo -n tee /etc/word", check=True)
    taken = vm.snapshots.create("disks", memory=False)
    assert (taken.kind, taken.memory, taken.state) == ("external", False, "disk-snapshot")
    assert not vm.agent.is_frozen()
    consistent(host, vm)
    write(vm, "lost")
    vm.snapshots.revert("disks")
    assert vm.state == "shut off"
    consistent(host, vm)
    vm.start()
    vm.wait()
    assert read(vm) == ("fresh", "old")


def test_a_machine_that_is_off_and_one_that_is_paused(host: vmctl.Host, vm: vmctl.VM) -> None:
    write(vm, "paused")
    vm.pause()
    paused = vm.snapshots.create("paused", kind="external")
    assert (paused.state, paused.memory, vm.state) == ("paused", True, "paused")
    vm.resume()
    write(vm, "off")
    vm.stop()
    off = vm.snapshots.create("off")
    assert (off.state, off.memory, off.parent) == ("shut off", False, "paused")
    # An overlay is not what the spec says, and is no drift.
    assert vm.compare(vm._intent().with_values({})).drift == ()
    vm.snapshots.revert("paused")
    assert vm.state == "paused"
    vm.resume()
    assert read(vm) == ("paused", "paused")
    vm.snapshots.revert("off")
    assert vm.state == "shut off"
    vm.start()
    vm.wait()
    assert read(vm) == ("off", "off")
    consistent(host, vm)


def test_what_fails_leaves_the_guest_as_it_was(
    host: vmctl.Host, vm: vmctl.VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (pool_volumes(host), vm.xml(inactive=True), vm._domain.raw().ID())

    def fail(*_args: object, **_more: object) -> None:
        assert vm.agent.is_frozen()
        raise vmctl.ResourceError("no room", hint="make some")

    monkeypatch.setattr("vmctl.hypervisor.snapshots.create_external", fail)
    with pytest.raises(vmctl.ResourceError, match="no room"):
        vm.snapshots.create("no", memory=False)
    assert not vm.agent.is_frozen()
    monkeypatch.undo()
    assert (pool_volumes(host), vm.xml(inactive=True), vm._domain.raw().ID()) == before
    consistent(host, vm)

    vm.snapshots.create("broken", kind="external")
    there = (pool_volumes(host), vm.xml(inactive=True))

    def refuse(*_args: object, **_more: object) -> None:
        raise vmctl.HypervisorError("no", hint="none")

    monkeypatch.setattr("vmctl.hypervisor.restores.restore", refuse)
    with pytest.raises(vmctl.HypervisorError, match="can't be restored") as failed:
        vm.snapshots.revert("broken")
    assert "as it was before, and off" in failed.value.hint
    monkeypatch.undo()
    assert (vm.state, pool_volumes(host), vm.xml(inactive=True)) == ("shut off", *there)
    consistent(host, vm)
    vm.snapshots.revert("broken")
    assert vm.run("true").exit_status == 0


def test_a_client_that_is_killed_leaves_nothing_frozen_once_gc_was_there(
    host: vmctl.Host, private_host: private.PrivateHost, vm: vmctl.VM
) -> None:
    program = (
        "import os, signal, vmctl\n"
        "from vmctl.hypervisor import snapshots\n"
        "def die(*arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "snapshots.create_external = die\n"
        f"with vmctl.connect('private:{private_host.name}') as host:\n"
        f"    host.get({vm.name!r}).snapshots.create('cut', quiesce=True)\n"
    )
    before = pool_volumes(host)
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert vm.agent.is_frozen()
    assert [entry.phase for entry in host.gc()] == ["snapshotting"]
    assert not vm.agent.is_frozen()
    assert host.gc() == []
    assert (pool_volumes(host), vm.snapshots.list()) == (before, [])
    assert vm.run("sudo -n touch /etc/word && sync").exit_status == 0


def test_what_is_refused_before_anything_is_done(host: vmctl.Host, vm: vmctl.VM) -> None:
    vm.snapshots.create("one", kind="external")
    before = (pool_volumes(host), vm.xml(inactive=True))
    with pytest.raises(ConflictError, match="has a snapshot 'one' already"):
        vm.snapshots.create("one")
    with pytest.raises(ConflictError, match="has a snapshot 'one' already"):
        vm.snapshots.revert("one", keep="one")
    with pytest.raises(NotFoundError, match="has no snapshot 'none'"):
        vm.snapshots.revert("none")
    with pytest.raises(ConflictError, match="has external snapshots, and can't have internal"):
        vm.snapshots.create("two", kind="internal")
    with pytest.raises(vmctl.UsageError, match="no kind of snapshot"):
        vm.snapshots.create("two", kind="both")
    with pytest.raises(ConflictError, match="which need the image underneath"):
        vm.flatten()
    raw = vm._domain.raw()
    raw.blockPull("vda", 1, 0)
    try:
        for call in (lambda: vm.snapshots.create("two"), lambda: vm.snapshots.revert("one")):
            with pytest.raises(ConflictError, match="a job is at work on the disk 'vda'"):
                call()
    finally:
        raw.blockJobAbort("vda", 0)
    vm.run("sudo -n kill -STOP $(pidof qemu-ga)", check=True, via="ssh")
    try:
        with pytest.raises(GuestUnreachableError, match="can't be frozen"):
            vm.snapshots.create("two", quiesce=True)
    finally:
        vm.run("sudo -n kill -CONT $(pidof qemu-ga)", check=True, via="ssh")
    assert (vm.state, pool_volumes(host), vm.xml(inactive=True)) == ("running", *before)
    consistent(host, vm)


def test_a_snapshot_of_virsh_is_gone_back_to(host: vmctl.Host, mixed: vmctl.VM) -> None:
    vm = mixed
    vm.start()
    vm.wait()
    write(vm, "theirs")
    folder = "/var/lib/libvirt/images"
    overlays = "".join(
        f"<disk name='{target}' snapshot='external'>"
        f"<source file='{folder}/theirs.{target}'/></disk>"
        for target in ("vda", "vdb")
    )
    vm._domain.raw().snapshotCreateXML(
        "<domainsnapshot><name>theirs</name>"
        f"<memory snapshot='external' file='{folder}/theirs.memory'/>"
        f"<disks>{overlays}</disks></domainsnapshot>"
    )
    (listed,) = vm.snapshots.list()
    assert (listed.name, listed.kind, listed.memory) == ("theirs", "external", True)
    write(vm, "ours")
    vm.snapshots.revert("theirs", keep="ours")
    assert read(vm) == ("theirs", "theirs")
    vm.snapshots.revert("ours")
    assert read(vm) == ("ours", "ours")
    vm.snapshots.revert("theirs")
    assert read(vm) == ("theirs", "theirs")
    # All of it goes with the machine, which is the last thing that is done to it.
    assert {f"theirs.{kind}" for kind in ("vda", "vdb", "memory")} <= pool_volumes(host)


@pytest.mark.usefixtures("nothing_left")
def test_uefis_variables_come_back_with_the_disks(host: vmctl.Host, make_spec: SpecMaker) -> None:
    vm = host.launch(make_spec(firmware="uefi", memory="256MiB"))
    with pytest.raises(UnsupportedError, match="UEFI's variables lie in a raw file"):
        vm.snapshots.create("no", kind="internal")
    vm.run(f"{MOUNT}; {WRITE}", check=True)
    first = vm.snapshots.create("first")
    assert (first.kind, first.memory, first.state) == ("external", True, "running")
    consistent(host, vm)
    # Another variable, and a word on the disk; then all of that once more, without memory.
    vm.run(f"{WRITE.replace('VmctlWord', 'VmctlMore')}; echo 2 | sudo -n tee /etc/word", check=True)
    second = vm.snapshots.create("second", memory=False)
    assert (second.state, second.parent, vm.state) == ("disk-snapshot", "first", "running")
    assert not vm.agent.is_frozen()

    vm.snapshots.revert("first")
    assert vm.state == "running"
    assert vm.run(f"tail -c 4 {VARIABLE}", check=True).stdout == "kept"
    assert _words_in(host, vm) == ["VmctlWord"]
    assert vm.run("test -e /etc/word").exit_status == 1
    consistent(host, vm)

    vm.snapshots.revert("second")
    assert _words_in(host, vm) == ["VmctlMore", "VmctlWord"]
    vm.start()
    vm.wait()
    listed = vm.run(f"{MOUNT}; ls /sys/firmware/efi/efivars | grep -c Vmctl; cat /etc/word")
    assert listed.stdout.split() == ["2", "2"]
    consistent(host, vm)
    vm.delete()


def _words_in(host: vmctl.Host, vm: vmctl.VM) -> list[str]:
    """Return which variables of the test's are in the machine's file on the host."""
    owned = vm._record().volume(Role.NVRAM)
    assert owned is not None
    assert vm._domain.firmware()[1].endswith(f"/{owned.name}")
    content = StoredVolume(host._connection, owned.pool, owned.name).read()
    words = ("VmctlMore", "VmctlWord")
    return [word for word in words if word.encode("utf-16-le") in content]


@contextmanager
def _full(host: vmctl.Host, name: str) -> Iterator[None]:
    """Fill a pool up, but for what is no room at all."""
    pool = host._connection.raw.storagePoolLookupByName(name)
    pool.refresh(0)
    size = pool.info()[3] - 16384
    ballast = pool.createXML(
        f"<volume><name>ballast</name><capacity>{size}</capacity>"
        f"<allocation>{size}</allocation></volume>"
    )
    try:
        yield
    finally:
        ballast.delete(0)


def test_a_pool_without_room_for_the_memory(host: vmctl.Host, small_pool: str) -> None:
    spec = {"name": "tight", "memory": "32MiB", "nics": [], "disks": [{"size": "1MiB"}]}
    with vmctl.connect(host.uri, pool=small_pool) as there:
        vm = there.launch(vmctl.VMSpec.model_validate(spec), wait=False)
        for kind in ("external", "internal", None):
            with pytest.raises(vmctl.ResourceError, match="no room for the memory of 'tight'"):
                vm.snapshots.create("no", kind=kind)
        record = vm._record()
        assert (record.claim, record.work) == (None, None)
        assert {volume.role for volume in record.volumes} == {Role.DISK, Role.CONSOLE_LOG}
        before, run = [disk.path for disk in vm._domain.disks()], vm._domain.raw().ID()
        with _full(host, small_pool), there.events(vm.name, kinds=["suspended"]) as stream:
            with pytest.raises(vmctl.ResourceError, match="no room"):
                vm.snapshots.create("no", memory=False)
            # It has not stood still for it.
            assert stream.get(0.2) is None
        assert [disk.path for disk in vm._domain.disks()] == before
        assert (vm.state, vm._domain.raw().ID(), vm.snapshots.list()) == ("running", run, [])
        assert vm.snapshots.create("disks", memory=False).kind == "external"
        with pytest.raises(vmctl.ResourceError, match="no room for the memory"):
            vm.snapshots.revert("disks", keep="more")
        assert vm.state == "running"
        vm.snapshots.revert("disks")
        assert vm.state == "shut off"
        vm.delete()


def test_disks_that_cant_be_in_a_snapshot(host: vmctl.Host, make_spec: SpecMaker) -> None:
    disk = {"size": "1MiB", "format": "raw"}
    spec = {"name": "odd", "memory": "32MiB", "nics": [], "disks": [disk]}
    vm = host.create(vmctl.VMSpec.model_validate(spec))
    text = vm.xml(inactive=True)
    barriers = {
        "<shareable/></disk>": "shared with other machines",
        "<transient/></disk>": "a transient one",
    }
    for end, why in barriers.items():
        host._connection.raw.defineXML(text.replace("</disk>", end, 1))
        with pytest.raises(UnsupportedError, match=f"'vda' of 'odd' is {why}"):
            vm.snapshots.create("no", kind="external")
    root = etree.fromstring(text)
    (node,) = root.findall("devices/disk")
    for tag in ("source", "target", "address"):
        for child in node.findall(tag):
            node.remove(child)
    # What is passed through answers the guest itself.
    node.set("type", "block")
    node.set("device", "lun")
    etree.SubElement(node, "source", dev="/dev/disk/by-id/its-own")
    etree.SubElement(node, "target", dev="sda", bus="scsi")
    host._connection.raw.defineXML(etree.tostring(root, encoding="unicode"))
    with pytest.raises(UnsupportedError, match="'sda' of 'odd' is a passed-through device"):
        vm.snapshots.create("no")
    host._connection.raw.defineXML(text.replace("</disk>", "<readonly/></disk>", 1))
    with pytest.raises(UnsupportedError, match="has no disk that it writes to"):
        vm.snapshots.create("no")
    found = vm.info()
    assert (found.snapshot_kind, found.snapshots) == ("", ())
    assert "no disk that it writes to" in found.snapshot_why
    host._connection.raw.defineXML(text)
    assert "is raw" in vm.snapshots.create("disks", kind="external").why
    found = vm.info()
    assert (found.snapshot_kind, found.current_snapshot) == ("external", "disks")
    assert found.snapshot_why == "the machine has external snapshots already"
    # Its volumes go by its UUID, and so does all that a snapshot has.
    vm.rename("odder")
    vm.snapshots.revert("disks")
    assert (vm.name, vm.info().labels) == ("odder", {})
    vm.delete()


def test_what_else_has_to_do_with_a_frozen_disk(host: vmctl.Host, tmp_path: Path) -> None:
    disk = {"size": "1MiB", "format": "raw"}
    spec = {"name": "odd", "memory": "32MiB", "nics": [], "disks": [disk, {"size": "1MiB"}]}
    vm = host.create(vmctl.VMSpec.model_validate(spec))
    first, second = (disk.path for disk in vm._domain.disks())
    frozen = StoredVolume(host._connection, "default", first.rpartition("/")[2])
    frozen.write(b"frozen" * 10)
    vm.snapshots.create("all")
    # Its files are not what the spec says, and that is no drift; its size is noted all the same.
    assert vm.compare({}).drift == ()
    vm.disks.resize("vdb", "2MiB")
    assert vm._record().spec["disks"][1]["size"] in {"2MiB", 2 << 20}
    assert vm.export(tmp_path / "odd", format="raw") == ()
    assert (tmp_path / "odd" / "vda.raw").read_bytes().startswith(b"frozen" * 10)
    # A disk that a snapshot holds can be detached, and comes back.
    with pytest.raises(ConflictError, match="vdb is in the snapshot 'all'"):
        vm.disks.detach("vdb", delete=True)
    vm.disks.detach("vdb")
    consistent(host, vm)
    vm.snapshots.revert("all")
    assert [disk.target for disk in vm.disks.list()] == ["vda", "vdb"]
    assert vm.disks.list()[1].capacity == 1 << 20
    consistent(host, vm)
    # A file of it that is gone is told of, and nothing is begun.
    StoredVolume(host._connection, "default", second.rpartition("/")[2]).delete()
    assert any(second in line and "'all'" in line for line in broken_images(host._connection))
    before = vm.xml(inactive=True)
    with pytest.raises(vmctl.ImageError, match=f"lacks a file: {second}"):
        vm.snapshots.revert("all")
    assert vm.xml(inactive=True) == before
    vm.delete()
