"""External snapshots: of a machine with a raw disk, which can have no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from lxml import etree

import vmctl

from .conftest import pool_volumes

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
