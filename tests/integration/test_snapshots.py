"""Snapshots of the micro guest: its memory and its disk go back, and what ran runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import vmctl
from vmctl.errors import ConflictError, NotFoundError, UsageError

pytestmark = pytest.mark.timeout(300)

SpecMaker = Callable[..., vmctl.VMSpec]


@pytest.fixture
def vm(host: vmctl.Host, make_spec: SpecMaker, nothing_left: None) -> Iterator[vmctl.VM]:
    machine = host.launch(make_spec())
    yield machine
    machine.delete()


def test_revert_brings_back_disk_and_memory_and_a_process_runs_on(
    host: vmctl.Host, vm: vmctl.VM
) -> None:
    vm.run("echo before | sudo -n tee /etc/thing && sync", check=True)
    # A process whose whole state is in memory: it counts, and answers with its count.
    vm.run(
        "cd /dev/shm; sh -c "
        "'n=0; while :; do n=$((n+1)); echo $n > new; mv new count; sleep 0.2; done' "
        "</dev/null >/dev/null 2>&1 & echo $! > /dev/shm/pid; "
        "until [ -e /dev/shm/count ]; do sleep 0.1; done",
        timeout=60,
        check=True,
    )
    pid = vm.run("cat /dev/shm/pid", check=True).stdout.strip()
    boot = vm.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout

    taken = vm.snapshots.create("clean", description="as it should be")
    assert (taken.name, taken.state, taken.description) == ("clean", "running", "as it should be")
    assert (taken.kind, taken.memory) == ("internal", True)
    at_snapshot = int(vm.run("cat /dev/shm/count", check=True).stdout)

    vm.run(f"sudo -n kill {pid}; sudo -n rm /etc/thing; sync", check=True)
    assert vm.run("test -e /etc/thing").exit_status == 1
    # It is an orphan: it is gone when the guest's process 1 has reaped it.
    vm.run(f"while [ -d /proc/{pid} ]; do sleep 0.1; done", timeout=60, check=True)

    vm.snapshots.revert("clean")

    assert host._connection.raw.lookupByName(vm.name).state()[0] == 1
    assert vm.run("cat /etc/thing", check=True).stdout == "before\n"
    # The same boot: nothing was restarted.
    assert vm.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout == boot
    first = int(vm.run("cat /dev/shm/count", check=True).stdout)
    assert vm.run(f"test -d /proc/{pid}").exit_status == 0
    # It counts on from where it was, in the guest's own time.
    later = vm.run(
        f"while [ $(cat /dev/shm/count) -le {first} ]; do :; done; cat /dev/shm/count", timeout=60
    )
    assert int(later.stdout) > first
    assert first < at_snapshot + 200


def test_a_revert_keeps_what_vmctl_knows_and_forwards(host: vmctl.Host, vm: vmctl.VM) -> None:
    key = vm.info().host_key
    vm.snapshots.create("one")
    vm.snapshots.revert("one")
    vm.snapshots.revert("one")
    info = vm.info()
    assert (info.host_key, info.phase, info.snapshots) == (key, "ready", ("one",))
    assert vm.run("true").exit_status == 0


def test_a_snapshot_of_a_machine_that_is_off(host: vmctl.Host, vm: vmctl.VM) -> None:
    vm.run("echo 1 | sudo -n tee /etc/state && sync", check=True)
    vm.stop()
    assert vm.snapshots.create("off").state == "shut off"
    vm.start()
    vm.wait()
    vm.run("echo 2 | sudo -n tee /etc/state && sync", check=True)
    vm.snapshots.revert("off")
    assert vm.state == "shut off"
    vm.start()
    vm.wait()
    assert vm.run("cat /etc/state", check=True).stdout == "1\n"


def test_list_and_delete(vm: vmctl.VM) -> None:
    vm.snapshots.create("a")
    vm.snapshots.create("b")
    listed = vm.snapshots.list()
    assert [(entry.name, entry.parent, entry.current) for entry in listed] == [
        ("a", "", False),
        ("b", "a", True),
    ]
    vm.snapshots.delete("a")
    assert [entry.name for entry in vm.snapshots.list()] == ["b"]
    vm.snapshots.revert("b")
    assert vm.run("true").exit_status == 0
    assert vm.snapshots.of_others() == ()


def test_what_is_refused(vm: vmctl.VM) -> None:
    vm.snapshots.create("twice")
    with pytest.raises(ConflictError, match="has a snapshot 'twice' already"):
        vm.snapshots.create("twice")
    with pytest.raises(NotFoundError, match="has no snapshot 'none'"):
        vm.snapshots.revert("none")
    with pytest.raises(NotFoundError, match="has no snapshot 'none'"):
        vm.snapshots.delete("none")
    for name in ("", "a/b", "../x", "x" * 64, "<&>", "a b"):
        with pytest.raises(UsageError):
            vm.snapshots.create(name)
    with pytest.raises(UsageError, match=r"can't have the character '\\x1b'"):
        vm.snapshots.create("red", description="\x1b[31m")
    assert vm.run("true").exit_status == 0


def test_a_number_is_not_taken_for_another_snapshots(vm: vmctl.VM) -> None:
    with pytest.raises(UsageError, match="can't be called '1'"):
        vm.snapshots.create("1")
    vm.run("echo first | sudo -n tee /etc/state && sync", check=True)
    # It gets the ID 1 in the disk.
    vm.snapshots.create("first")
    vm.run("echo second | sudo -n tee /etc/state && sync", check=True)
    vm._domain.raw().snapshotCreateXML("<domainsnapshot><name>1</name></domainsnapshot>")
    with pytest.raises(ConflictError, match=r"'1' of .* can't be told from others"):
        vm.snapshots.revert("1")
    # It is another program's, however often it is gone back to.
    assert vm.snapshots.of_others() == ("1",)
    vm.snapshots.revert("first")
    vm.snapshots.delete("first")
    vm.run("echo third | sudo -n tee /etc/state && sync", check=True)
    vm.snapshots.revert("1")
    assert vm.run("cat /etc/state", check=True).stdout == "second\n"
    assert vm.snapshots.of_others() == ("1",)
    vm.stop()
    vm.snapshots.create("third")
    with pytest.raises(ConflictError, match="can't be told from others"):
        vm.clone("copy", from_snapshot="1")


@pytest.mark.usefixtures("nothing_left")
def test_a_machine_that_is_not_ready_is_refused(host: vmctl.Host, make_spec: SpecMaker) -> None:
    vm = host.create(make_spec())
    with pytest.raises(ConflictError, match="is not ready yet"):
        vm.snapshots.create("early")
    vm.delete()
