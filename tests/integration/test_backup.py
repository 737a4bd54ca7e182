"""Backups of running guests: chains of them, restored, with all that was written before each."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import vmctl
from vmctl.backing_up.restoring import open_chain
from vmctl.hypervisor import private
from vmctl.hypervisor.metadata import Role
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import Phase

from .conftest import until_agent
from .test_uefi import MOUNT, WRITE

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]

# Numbered records, each with its checksum. A number is acknowledged when its record was given to
# the file system; of those that were synced as well, even a crash may take none.
WRITER = """
n=0
while :; do
    usleep 20000
    n=$((n+1))
    echo "$n $(echo "record $n" | sha256sum | cut -c1-64)" >> /var/records
    echo $n > /dev/shm/new && mv /dev/shm/new /dev/shm/written
    if [ $((n % 20)) = 0 ]; then
        sync
        echo $n > /dev/shm/new && mv /dev/shm/new /dev/shm/synced
    fi
done
"""


@dataclass
class Taken:
    """What is known of a backup: it must have these records, and that disk."""

    backup: vmctl.Backup
    records: int
    vdb: str


def root(vm: vmctl.VM, command: str) -> str:
    return vm.run(["sh", "-c", command], check=True, timeout=120, via="agent").stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backups") / "all"


@pytest.fixture(scope="module")
def written(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    """A guest that writes records without pause, and has a second disk."""
    spec = vmctl.VMSpec.model_validate(
        {
            "name": f"b{uuid.uuid4().hex[:8]}",
            "image": micro_image,
            "memory": "192MiB",
            "nics": [{"user": True}],
            "disks": [{}, {"size": "24MiB"}],
        }
    )
    vm = host.launch(spec)
    try:
        vm.agent.write_file("/dev/shm/writer", WRITER.encode())
        root(vm, "sh /dev/shm/writer </dev/null >/dev/null 2>&1 &")
        root(vm, "until [ -e /dev/shm/synced ]; do sleep 0.1; done")
        yield vm
    finally:
        vm.delete()


@pytest.fixture(scope="module")
def chain(written: vmctl.VM, folder: Path) -> list[Taken]:
    """A full backup and ten of what was changed since, the last but one without the agent."""
    vm, found = written, []
    changes = [
        "dd if=/dev/urandom of=/dev/vdb bs=1M count=10",
        "dd if=/dev/urandom of=/dev/vdb bs=64k seek=200 count=3",
        # What becomes nothing must not be seen again from the backup before.
        "blkdiscard -o 2097152 -l 2097152 /dev/vdb",
        "dd if=/dev/zero of=/dev/vdb bs=1M seek=5 count=1",
    ]
    for number in range(11):
        if number < len(changes):
            root(vm, f"{changes[number]} conv=fsync 2>&1 || {changes[number]}")
        crash = number == 9
        vdb = root(vm, "sync; sha256sum /dev/vdb").split()[0]
        records = int(root(vm, f"cat /dev/shm/{'synced' if crash else 'written'}"))
        backup = vm.backup(folder, quiesce=not crash)
        found.append(Taken(backup, records, vdb))
    return found


def raw_disk(folder: Path, backup: str, target: str, tmp_path: Path) -> Path:
    """Return a disk of a backup as it was, made on this machine."""
    made = open_chain(folder, None, backup).disk(target, tmp_path, Phase("", "", None))
    raw = tmp_path / f"{target}.raw"
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(made), str(raw)]
    subprocess.run(command, check=True)
    made.unlink()
    return raw


def mended(raw: Path) -> Path:
    """Return the root file system, its journal replayed, once it is found to be whole."""
    found = subprocess.run(["sfdisk", "--json", str(raw)], check=True, capture_output=True)
    parts = json.loads(found.stdout)["partitiontable"]["partitions"]
    start, sectors = max(((p["start"], p["size"]) for p in parts), key=lambda part: part[1])
    alone = raw.with_suffix(".ext4")
    with raw.open("rb") as source, alone.open("wb") as target:
        source.seek(start * 512)
        left = sectors * 512
        while left and (piece := source.read(min(left, 1 << 20))):
            target.write(piece)
            left -= len(piece)
    # First what a boot does, which may replay the journal; then nothing may be left to mend.
    subprocess.run(["e2fsck", "-p", str(alone)], check=False, capture_output=True)
    done = subprocess.run(["e2fsck", "-fn", str(alone)], check=False, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()
    return alone


def records_in(file_system: Path) -> int:
    """Return how many records there are, from the first on, each with its checksum."""
    done = subprocess.run(
        ["debugfs", "-R", "cat /var/records", str(file_system)], check=True, capture_output=True
    )
    lines = done.stdout.decode("ascii", "replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        digest = hashlib.sha256(f"record {number}\n".encode()).hexdigest()
        assert line == f"{number} {digest}"
    return len(lines) - 1


def test_a_chain_of_backups_of_a_guest_that_writes(
    chain: list[Taken], folder: Path, tmp_path: Path
) -> None:
    first, *rest = chain
    assert (first.backup.kind, first.backup.why) == (
        "full", "it is the first one of this machine in this folder",
    )  # fmt: skip
    assert [taken.backup.kind for taken in rest] == ["incremental"] * 10
    assert [taken.backup.parent for taken in rest] == [taken.backup.id for taken in chain[:-1]]
    kinds = ["quiesced"] * 9 + ["crash-consistent", "quiesced"]
    assert [taken.backup.consistency for taken in chain] == kinds
    # Only what was changed is in them.
    assert all(taken.backup.size < first.backup.size / 4 for taken in rest)
    last = 0
    for taken in chain:
        raw = raw_disk(folder, taken.backup.id, "vda", tmp_path)
        found = records_in(alone := mended(raw))
        assert found >= taken.records > last
        last = taken.records
        raw.unlink()
        alone.unlink()
        raw = raw_disk(folder, taken.backup.id, "vdb", tmp_path)
        assert hashlib.sha256(raw.read_bytes()).hexdigest() == taken.vdb
        raw.unlink()


def test_only_the_newest_checkpoint_is_kept(
    host: vmctl.Host, written: vmctl.VM, chain: list[Taken]
) -> None:
    names = host._connection.raw.lookupByUUIDString(written.uuid).listAllCheckpoints(0)
    (name,) = [found.getName() for found in names]
    assert re.fullmatch(rf"vmctl\.[0-9a-f]{{16}}\.{chain[-1].backup.id}", name)


def test_a_backup_from_the_middle_of_a_chain_becomes_a_machine(
    host: vmctl.Host, written: vmctl.VM, chain: list[Taken], folder: Path
) -> None:
    taken = chain[5]
    told: list[str] = []
    vm = host.restore(
        folder,
        id=taken.backup.id,
        name=f"{written.name}-back",
        review=lambda found: told.extend(found.warnings),
    )
    try:
        assert (vm.state, vm.info().phase) == ("shut off", "ready")
        assert vm.uuid != written.uuid
        # The machine that it was made of is there still.
        assert any("MAC address" in text for text in told)
        vm.start()
        until_agent(vm)
        assert root(vm, "sha256sum /dev/vdb").split()[0] == taken.vdb
        lines = root(vm, "cat /var/records").splitlines()
        assert len(lines) >= taken.records
        assert vm.info().host_key == written.info().host_key
    finally:
        vm.delete()


def test_a_client_that_is_killed_leaves_nothing_frozen_once_gc_was_there(
    host: vmctl.Host,
    private_host: private.PrivateHost,
    written: vmctl.VM,
    chain: list[Taken],
    folder: Path,
) -> None:
    program = (
        "import os, signal, sys, vmctl\n"
        "from vmctl.hypervisor import backups\n"
        "def die(*arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "backups.begin = die\n"
        f"with vmctl.connect('private:{private_host.name}') as host:\n"
        f"    host.get({written.name!r}).backup({str(folder)!r}, quiesce=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert written.agent.is_frozen()
    assert {entry.phase for entry in host.gc()} == {"backing-up"}
    assert not written.agent.is_frozen()
    assert host.gc() == []
    assert written.backup(folder).parent == chain[-1].backup.id


def test_uefis_variables_are_in_it_and_come_back(
    host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path
) -> None:
    vm = host.launch(make_spec(firmware="uefi", memory="256MiB"))
    vm.run(MOUNT, check=True)
    vm.run(WRITE, check=True)
    made = vm.backup(tmp_path / "all")
    kept = (tmp_path / "all" / vm.uuid / made.id / "nvram").read_bytes()
    assert "VmctlWord".encode("utf-16-le") in kept
    assert made.remarks == ()
    vm.run(WRITE.replace("Word", "Late"), check=True)
    vm.stop(timeout=30)

    before = vm._record().volume(Role.NVRAM)
    assert vm.restore(tmp_path / "all") == ()
    owned = vm._record().volume(Role.NVRAM)
    assert owned is not None
    assert owned != before
    assert vm._domain.firmware()[1].endswith(f"/{owned.name}")
    # That a guest finds them there, test_uefi.py shows.
    assert StoredVolume(host._connection, owned.pool, owned.name).read() == kept
    vm.delete()
