"""Machines that are struck in the middle of something, and what must hold of them afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import libvirt_qemu
from lxml import etree

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.lost import is_lost
from vmctl.hypervisor.snapshots import list_details

from .boot_sector import saying
from .conftest import enter_host, libvirtd_pid, pool_volumes
from .test_external_snapshots import consistent, in_tree

_ROOT = Path(__file__).resolve().parents[2]
_MIB = 1 << 20
# What a guestless machine's disks hold besides a boot sector: this much of one byte.
_FILLED = 8
_UP = "tiny: up"


@dataclass
class Arena:
    """A host whose clients and whose libvirtd are struck.

    Attributes:
        private_host: That.
        host: A connection that has to outlast all of it.
        durations: How long each verb takes on each machine, in seconds, when nobody disturbs it.
        foreign: Volumes that were there before, and are nobody's: what other tests left.
        lost: Whether libvirt lost the machine that was struck last; its QEMU was ended then.
    """

    private_host: private.PrivateHost
    host: vmctl.Host
    durations: dict[str, float] = field(default_factory=dict)
    foreign: set[str] = field(init=False)
    lost: bool = False

    def __post_init__(self) -> None:
        self.foreign = self._volumes() - self._owned()

    def begin(self, vm: vmctl.VM, *words: str) -> subprocess.Popen[str]:
        """Start a client, and return when it begins."""
        program = [sys.executable, "-m", "tests.integration.struck_client"]
        client = subprocess.Popen(
            [*program, f"private:{self.private_host.name}", vm.name, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        assert client.stdout is not None
        assert client.stdout.readline() == "begun\n", client.communicate()
        return client

    def measure(self, vm: vmctl.VM, *words: str) -> float:
        """Do it undisturbed; returns how long it took, in seconds."""
        client = self.begin(vm, *words)
        began = time.monotonic()
        _out, said = client.communicate(timeout=300)
        assert client.returncode == 0, said
        return time.monotonic() - began

    def strike(self, vm: vmctl.VM, what: str, seconds: float, *words: str) -> tuple[int, str]:
        """Do it, and strike after so many seconds; returns the client's status and last words.

        Args:
            vm: The machine.
            what: ``client``, ``libvirtd`` or ``both``: who is killed.
            seconds: When.
            words: What is done.
        """
        client = self.begin(vm, *words)
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(seconds)
        if what != "client":
            os.kill(libvirtd_pid(self.private_host), signal.SIGKILL)
        if what != "libvirtd":
            client.kill()
        _out, said = client.communicate(timeout=300)
        # It is started again at once, and can be reached a little later.
        outlasting(self.host.list)
        self.lost = is_lost(vm._domain)
        if self.lost:
            # What the hint of the error says.
            end_qemu(vm)
        return client.returncode, said.strip()[-2000:]

    def at_rest(self, *, by: str = "gc") -> None:
        """Let `gc` settle what was left, and see that it then finds nothing, nor does anybody."""
        first = self.host.gc()
        again = self.host.gc()
        assert again == [], (by, first, again)
        for entry in self.host.list():
            consistent(self.host, self.host.get(entry.name))
        assert self._volumes() - self.foreign == self._owned()

    def _volumes(self) -> set[str]:
        return {name for name in pool_volumes(self.host) if not name.startswith("sha256-")}

    def _owned(self) -> set[str]:
        machines = [self.host.get(entry.name) for entry in self.host.list()]
        return {volume.name for machine in machines for volume in machine._record().volumes}


@dataclass
class Tiny:
    """A machine of which only the firmware and, with a BIOS, a boot sector run.

    Attributes:
        arena: Where.
        vm: The machine.
        said: How often its boot sector was heard, at the last look.
    """

    arena: Arena
    vm: vmctl.VM
    bios: bool

    @classmethod
    def make(cls, arena: Arena, folder: Path, *, name: str, bios: bool) -> Tiny:
        """Make one with two disks; with UEFI the second is raw, which makes snapshots external."""
        boot = folder / "boot.raw"
        boot.write_bytes(saying(_UP))
        with boot.open("r+b") as handle:
            handle.truncate(16 * _MIB)
        image = folder / "boot.qcow2"
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(boot), str(image)]
        subprocess.run(command, check=True)
        fields = {"memory": "48MiB", "disks": [{"size": "16MiB"}], "nics": []}
        if not bios:
            fields["firmware"] = "uefi"
        spec = vmctl.VMSpec.model_validate({"name": name, **fields})
        vm = arena.host.import_machine(image, spec=spec)
        second = {"size": "16MiB", "format": "qcow2" if bios else "raw"}
        vm.disks.attach(vmctl.DiskSpec.model_validate(second))
        return cls(arena, vm, bios)

    def write(self, word: int) -> None:
        """Write a byte all over a part of both disks, as the guest would: through QEMU."""
        assert self.vm.state == "running"
        self._do(self.vm, f"write -P {word} {_MIB} {_FILLED * _MIB}")
        self._do(self.vm, "flush")

    def _do(self, vm: vmctl.VM, command: str) -> None:
        """Let QEMU do something with each disk of a machine that runs."""
        root = etree.fromstring(vm._domain.xml())
        for alias in root.iterfind("devices/disk/alias"):
            path = f"/machine/peripheral/{alias.get('name')}/virtio-backend"
            line = {"command-line": f'qemu-io -d {path} "{command}"'}
            text = json.dumps({"execute": "human-monitor-command", "arguments": line})
            answer = json.loads(libvirt_qemu.qemuMonitorCommand(vm._domain.raw(), text, 0))
            assert answer.get("return") == "", answer

    def read(self, vm: vmctl.VM | None = None) -> set[int]:
        """Return the bytes that its disks hold there; one where they belong together."""
        machine = vm or self.vm
        if machine._domain.is_active():
            # What it keeps of its tables in memory is not seen by others.
            self._do(machine, "flush")
        found = set()
        for disk in machine._domain.disks():
            command = ["qemu-io", "-U", "-r", "-f", disk.format]
            run = [*enter_host(self.arena.private_host), *command]
            first = subprocess.run(
                [*run, "-c", f"read -v {_MIB} 16", disk.path],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            word = int(first.stdout.split()[1], 16)
            whole = f"read -P {word} {_MIB} {_FILLED * _MIB}"
            done = subprocess.run(
                [*run, "-c", whole, disk.path], stdout=subprocess.PIPE, text=True, check=False
            )
            assert done.returncode == 0, (disk, word, done.stdout)
            assert "failed" not in done.stdout, (disk, word, done.stdout)
            found.add(word)
        return found

    def boots(self, vm: vmctl.VM | None = None) -> None:
        """See that it starts, and that its boot sector is heard."""
        machine = vm or self.vm
        if machine.state != "shut off":
            machine.stop(timeout=0, force=True)
        if not self.bios:
            machine.start()
            assert machine.state == "running"
            return
        before = machine.console_log().count(_UP)
        with machine._domain.connection.events.listening(machine.uuid) as heard:
            machine.start()
            assert heard.wait_for(
                lambda: True if machine.console_log().count(_UP) > before else None,
                deadline=time.monotonic() + 120,
                recheck=0.2,
            ), machine.console_log()[-500:]

    def agrees(self) -> None:
        """See that vmctl, libvirt and the disks have the same snapshots, and their files."""
        listed = self.vm.snapshots.list()
        assert {entry.name for entry in listed} == set(in_tree(self.vm))
        inner = sorted(entry.name for entry in listed if entry.kind == "internal")
        for disk in self.vm._domain.disks():
            if disk.format == "qcow2":
                command = ["qemu-img", "info", "-U", "--output=json", "-f", "qcow2", disk.path]
                run = [*enter_host(self.arena.private_host), *command]
                said = subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout
                within = [entry["name"] for entry in json.loads(said).get("snapshots", ())]
                assert sorted(within) == inner, (disk, within, inner)
        pool = pool_volumes(self.arena.host)
        for details in list_details(self.vm._domain):
            assert {path.rpartition("/")[2] for path in details.held} <= pool

    def without_snapshots(self) -> None:
        """Delete all of them, and see that nothing of them stays."""
        for entry in reversed(self.vm.snapshots.list()):
            self.vm.snapshots.delete(entry.name)
        self.vm.snapshots.merge()
        for disk in self.vm.info().disks:
            assert len(disk.chain) == 1, disk


def end_qemu(vm: vmctl.VM) -> None:
    """End a machine's QEMU, whether libvirt knows of it or not, and wait until it is gone."""
    process = os.pidfd_open(_qemu_of(vm))
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        # Till then it has the locks of its disks.
        assert select.select([process], [], [], 60)[0]
    finally:
        os.close(process)


def _qemu_of(vm: vmctl.VM) -> int:
    (found,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"\0-uuid\0{vm.uuid}\0" in _content(path)
    ]
    return found


def _content(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def chosen(rng: random.Random, verbs: list[str]) -> tuple[str, str, float]:
    """Choose what is done, who is killed, and when, as a part of the time that it takes."""
    return rng.choice(verbs), rng.choice(["client", "libvirtd", "both"]), rng.uniform(0, 1.05)
