"""A machine with snapshots and clones, played beside a model of what its guest has to read.

Every step is done to both. After it the guest is asked for all that it has, and says what the model
says; the files that snapshots froze, clones, and a machine that is off are read on the host.
"""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import libvirt
import libvirt_qemu
import pytest

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.metadata import Role
from vmctl.hypervisor.snapshots import list_details
from vmctl.hypervisor.volumes import StoredVolume

from .conftest import enter_host, until_agent
from .test_external_snapshots import consistent
from .test_uefi import VARIABLE

__all__ = ["Kind", "Player", "State"]

# Where the value of a disk lies: on the first one behind GRUB's image, in the partition for it.
_SECTORS = {"vda": 4000, "vdb": 0}
# By its file as well, so that a torn file system is seen.
_FILE = "/var/value"
_MEMORY = "/dev/shm/value"
_BOOT_SECONDS = 400.0
# Of libvirt-qemu.h: the command is one for people.
_HMP = 1
_LOG = logging.getLogger(__name__)
_EFIVARS, _, _WORD = VARIABLE.rpartition("/")


@dataclass(frozen=True)
class Kind:
    """What machine is played with.

    Attributes:
        name: What it is called.
        disks: The targets of its disks; the second one is raw.
        uefi: Whether it has UEFI, whose variables the guest sets as well.
        guest: Whether it has one. Without, QEMU itself is told to write: that is a great many times
            faster, and tells the same of disks.
    """

    name: str
    disks: tuple[str, ...] = ("vda",)
    uefi: bool = False
    guest: bool = True

    @property
    def places(self) -> tuple[str, ...]:
        """Where its guest can write to."""
        if not self.guest:
            return self.disks
        return (*self.disks, "memory", *(["variables"] if self.uefi else []))

    @property
    def external(self) -> bool:
        """Whether it can have external snapshots alone."""
        return self.uefi or len(self.disks) > 1


@dataclass(frozen=True)
class State:
    """All that a guest has.

    Attributes:
        disks: The value on each disk; none has 0.
        variables: The values that UEFI's variables are named after.
        memory: The value in its memory; None where there is none, as in one that is off.
        running: Whether it runs.
    """

    disks: dict[str, int]
    variables: frozenset[int] = frozenset()
    memory: int | None = None
    running: bool = True

    @property
    def off(self) -> State:
        """The same without its memory."""
        return replace(self, memory=None, running=False)


@dataclass(frozen=True)
class _Taken:
    state: State
    parent: str
    external: bool


@dataclass
class _Clone:
    vm: vmctl.VM
    disks: dict[str, int]
    lies_on: str


@dataclass
class Player:
    """One life of a machine; `machine` and what it wrote outlive it.

    Attributes:
        launch: Launches a machine of the kind.
        steps: How many steps were played.
        log: The steps of this life, as Python.
        boots: How often the guest booted in it.
    """

    kind: Kind
    host: vmctl.Host
    private_host: private.PrivateHost
    launch: Callable[[], vmctl.VM]
    machine: vmctl.VM | None = None
    steps: int = 0
    log: list[str] = field(default_factory=list)
    boots: int = 0
    _state: State = field(default_factory=lambda: State({}))
    _flat: bool = False
    _taken: dict[str, _Taken] = field(default_factory=dict)
    _clones: dict[str, _Clone] = field(default_factory=dict)
    _current: str = ""
    _count: int = 0

    # -- what a rule may ask ----------------------------------------------------------------------

    @property
    def vm(self) -> vmctl.VM:
        """The machine."""
        assert self.machine is not None
        return self.machine

    @property
    def taken(self) -> list[str]:
        """The snapshots, in the order in which they were taken."""
        return list(self._taken)

    @property
    def taken_running(self) -> list[str]:
        """Those of them that leave the machine running."""
        return [name for name, taken in self._taken.items() if taken.state.running]

    @property
    def clones(self) -> list[str]:
        """The clones that there are."""
        return list(self._clones)

    @property
    def frozen(self) -> list[str]:
        """The snapshots that clones can be made of."""
        return [name for name, taken in self._taken.items() if taken.external]

    @property
    def forks(self) -> list[str]:
        """The snapshots that several ways go on from: other snapshots, and the present."""
        after = [taken.parent for taken in self._taken.values()] + [self._current]
        return [name for name in self._taken if after.count(name) > 1]

    @property
    def last(self) -> str:
        """The name of the step before."""
        return self.log[-1].partition("(")[0] if self.log else ""

    @property
    def running(self) -> bool:
        """Whether the machine runs."""
        return self._state.running

    # -- a life -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a life: without snapshots and clones, running, with fresh values."""
        _LOG.info("%s: begin()", self.kind.name)
        if self.machine is None:
            self.machine = self.launch()
            self._state = State(dict.fromkeys(self.kind.disks, 0))
            self._flat = not self.kind.guest
        else:
            self._clean()
        # Till then the life before is what it is about.
        self.log.clear()
        self._count = 0
        self._run()
        self.boots = 0
        if "variables" in self.kind.places:
            self._in_guest(
                f"grep -q efivarfs /proc/mounts || mount -t efivarfs efivarfs {_EFIVARS}"
            )
        variables = frozenset(self._variables_in_guest())
        self._state = replace(self._state, variables=variables, memory=None)
        for target in self.kind.disks:
            self._put(target, 1000)
        self._check()

    def _clean(self) -> None:
        for name in self.clones:
            self._drop(name)
        for name in reversed(self.taken):
            self.vm.snapshots.delete(name)
        self.vm.snapshots.merge()
        self._taken.clear()
        self._current = ""
        # Whatever was done, nothing is left of it but one file for each disk.
        for disk in self.vm.info().disks:
            if disk.target not in _SECTORS:
                continue
            layers = [layer.path for layer in disk.chain if "sha256-" not in layer.path]
            assert len(layers) == 1, layers
        consistent(self.host, self.vm)
        if self._state.running and self.kind.guest:
            self._in_guest(f"rm -f {_MEMORY}")

    def end(self) -> None:
        """Remove all that there is."""
        for name in self.clones:
            self._clones.pop(name).vm.delete()
        if self.machine is not None:
            self.machine.delete()
        self.machine = None
        self._taken.clear()
        self._current = ""

    def _step(self, text: str) -> None:
        self.steps += 1
        self.log.append(text)
        _LOG.info("%s: %s", self.kind.name, text)

    # -- steps ------------------------------------------------------------------------------------

    def write(self, target: str) -> None:
        """Let the guest write to a disk, to its ``memory`` or to UEFI's ``variables``."""
        self._step(f"write({target!r})")
        self._run()
        self._count += 1
        self._put(target, 1000 + self._count)
        self._check()

    def stop(self, *, hard: bool = False) -> None:
        """Shut it down, or pull the plug."""
        self._step(f"stop({hard=})")
        self._stop(hard=hard)
        self._check()

    def restart(self, *, hard: bool = False) -> None:
        """Boot the guest again."""
        self._step(f"restart({hard=})")
        self._stop(hard=hard)
        self._run()
        self._check()

    def take(self, memory: bool | None = None) -> None:
        """Take a snapshot."""
        name = f"s{len(self.log)}"
        self._step(f"take({memory=})")
        memory = memory if self._state.running else None
        disk_only = self._state.running and memory is False
        if disk_only and not self.kind.external and self._kinds() == {False}:
            with pytest.raises(vmctl.ConflictError, match="one kind at a time|has internal"):
                self.vm.snapshots.create(name, memory=memory)
        else:
            made = self.vm.snapshots.create(name, memory=memory)
            assert made.memory == (self._state.running and not disk_only)
            self._add(name, disk_only=disk_only)
            assert (made.kind == "external") == self._taken[name].external
        self._check()

    def go_back(self, name: str, *, keep: bool = False) -> None:
        """Revert to a snapshot; what there is may be kept as another."""
        kept = f"s{len(self.log)}" if keep else None
        self._step(f"go_back({name!r}, {keep=})")
        self.vm.snapshots.revert(name, keep=kept)
        if kept is not None:
            self._add(kept)
        self._state = self._taken[name].state
        self._current = name
        if self._state.running and self.kind.guest:
            until_agent(self.vm, _BOOT_SECONDS)
        self._check()

    def delete(self, name: str, *, children: bool = False) -> None:
        """Delete a snapshot, with what was taken after it."""
        self._step(f"delete({name!r}, {children=})")
        gone = {name}
        while children:
            more = {other for other, taken in self._taken.items() if taken.parent in gone} - gone
            if not more:
                break
            gone |= more
        leaning = {clone.lies_on for clone in self._clones.values()}
        if gone & leaning:
            with pytest.raises(vmctl.ConflictError, match="lies on"):
                self.vm.snapshots.delete(name, children=children)
        else:
            assert set(self.vm.snapshots.delete(name, children=children)) == gone
            self._forget(gone)
        self._check()

    def forget(self, name: str) -> None:
        """Let another program delete what libvirt knows of the newest snapshot, and no file."""
        self._step(f"forget({name!r})")
        assert self._current == name
        raw = self.vm._domain.raw().snapshotLookupByName(name)
        raw.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
        self._forget({name})
        self._check()

    def merge(self) -> None:
        """Merge what is left of snapshots, of which there is mostly nothing."""
        self._step("merge()")
        self.vm.snapshots.merge()
        assert self.vm.snapshots.merge() == 0
        self._check()

    def flatten(self) -> None:
        """Let the machine stand alone, which snapshots forbid."""
        self._step("flatten()")
        if self._taken and (not self._flat or self._kinds() == {True}):
            with pytest.raises(vmctl.ConflictError, match="has snapshots"):
                self.vm.flatten()
        else:
            assert self.vm.flatten() == (() if self._flat else ("vda",))
            self._flat = True
        self._check()

    def clone(self, name: str | None = None, *, linked: bool = False) -> None:
        """Make a clone of a snapshot, or of the present."""
        called = f"c{len(self.log)}"
        self._step(f"clone({name!r}, {linked=})")
        state = self._state if name is None else self._taken[name].state
        if linked and name is None and not self.kind.external and self._kinds() == {False}:
            with pytest.raises(vmctl.ConflictError, match="one kind at a time|has internal"):
                self.vm.clone(called, linked=True)
        else:
            made = self.vm.clone(called, linked=linked, from_snapshot=name)
            self._clones[called] = _Clone(made, dict(state.disks), (name or called) * linked)
            if linked and name is None:
                self._add(called, disk_only=True)
        self._check()

    def flatten_clone(self, name: str) -> None:
        """Let a clone stand alone."""
        self._step(f"flatten_clone({name!r})")
        clone = self._clones[name]
        assert (clone.vm.flatten() != ()) == bool(clone.lies_on)
        clone.lies_on = ""
        self._check()

    def drop(self, name: str) -> None:
        """Delete a clone."""
        self._step(f"drop({name!r})")
        self._drop(name)
        self._check()

    # -- the model --------------------------------------------------------------------------------

    def _kinds(self) -> set[bool]:
        return {taken.external for taken in self._taken.values()}

    def _add(self, name: str, *, disk_only: bool = False) -> None:
        external = self.kind.external or self._kinds() == {True} or disk_only
        state = self._state.off if disk_only else self._state
        self._taken[name] = _Taken(state, self._current, external)
        self._current = name

    def _forget(self, gone: set[str]) -> None:
        def above(name: str) -> str:
            while name in gone:
                name = self._taken[name].parent
            return name

        self._current = above(self._current)
        self._taken = {
            name: replace(taken, parent=above(taken.parent))
            for name, taken in self._taken.items()
            if name not in gone
        }

    # -- the machine ------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._state.running:
            return
        self.vm.start()
        self.boots += 1
        if self.kind.guest:
            until_agent(self.vm, _BOOT_SECONDS)
        if "variables" in self.kind.places:
            self._in_guest(f"mount -t efivarfs efivarfs {_EFIVARS}")
        self._state = replace(self._state, running=True, memory=None)

    def _stop(self, *, hard: bool) -> None:
        hard = hard or not self.kind.guest
        self.vm.stop(timeout=0 if hard else 60, force=hard)
        self._state = self._state.off

    def _drop(self, name: str) -> None:
        self._clones.pop(name).vm.delete()

    def _in_guest(self, script: str) -> str:
        return self.vm.run(script, check=True, timeout=120, via="agent").stdout

    def _put(self, target: str, value: int) -> None:
        if target == "memory":
            self._in_guest(f"echo {value} > {_MEMORY}")
            self._state = replace(self._state, memory=value)
        elif target == "variables":
            path = f"{_EFIVARS}/{_WORD.replace('VmctlWord', f'Vm{value:08d}')}"
            self._in_guest(rf"[ -e {path} ] || printf '\007\000\000\000kept' > {path}")
            known = self._state.variables | {value}
            self._state = replace(self._state, variables=known)
        elif not self.kind.guest:
            self._put_by_qemu(target, value)
            self._state = replace(self._state, disks=self._state.disks | {target: value})
        else:
            to = f"of=/dev/{target} seek={_SECTORS[target]} bs=512 conv=sync,notrunc,fsync"
            by_file = f"echo {value} > {_FILE}; sync" if target == "vda" else "true"
            self._in_guest(f"printf %08d {value} | dd {to} 2>/dev/null && {by_file}")
            self._state = replace(self._state, disks=self._state.disks | {target: value})

    def _put_by_qemu(self, target: str, value: int) -> None:
        byte = value - 999
        raw = self.vm._domain.raw()
        number = list(_SECTORS).index(target)
        at = _SECTORS[target] * 512
        device = f"/machine/peripheral/virtio-disk{number}/virtio-backend"
        for command in (f"write -P {byte} {at} 512", "flush"):
            said = libvirt_qemu.qemuMonitorCommand(raw, f'qemu-io -d {device} "{command}"', _HMP)
            assert "rror" not in said, said

    def _variables_in_guest(self) -> set[int]:
        if "variables" not in self.kind.places:
            return set()
        return _values(self._in_guest(f"ls {_EFIVARS}"))

    # -- what is compared -------------------------------------------------------------------------

    def _check(self) -> None:
        assert self.vm.state == ("running" if self._state.running else "shut off")
        assert self._seen() == self._state
        self._check_tree()
        frozen = [
            (name, taken.state.disks[target], target, disk_format, path)
            for name, target, path, disk_format in self._frozen_disks()
            for taken in [self._taken[name]]
        ] + [
            (name, clone.disks[disk.target], disk.target, disk.format, disk.path)
            for name, clone in self._clones.items()
            for disk in clone.vm._domain.disks()
            if disk.target in _SECTORS
        ]
        found = self._on_host((target, form, path) for _, _, target, form, path in frozen)
        wanted = [(name, target, value) for name, value, target, *_ in frozen]
        assert [
            (*which, value)
            for which, value in zip(
                [(name, target) for name, target, _ in wanted], found, strict=True
            )
        ] == wanted
        consistent(self.host, self.vm)

    def _frozen_disks(self) -> list[tuple[str, str, str, str]]:
        return [
            (entry.facts.name, disk.target, disk.path, disk.format)
            for entry in list_details(self.vm._domain)
            for disk in entry.disks
        ]

    def _check_tree(self) -> None:
        listed = self.vm.snapshots.list()
        assert {entry.name: (entry.parent, entry.kind == "external") for entry in listed} == {
            name: (taken.parent, taken.external) for name, taken in self._taken.items()
        }
        current = [entry.name for entry in listed if entry.current]
        assert current == ([self._current] if self._current else [])

    def _seen(self) -> State:
        if self._state.running and self.kind.guest:
            return self._seen_by_guest()
        return self._seen_on_host()

    def _seen_by_guest(self) -> State:
        script = ["sync", "echo 3 > /proc/sys/vm/drop_caches"]
        script += [
            f"dd if=/dev/{target} bs=512 skip={_SECTORS[target]} count=1 2>/dev/null "
            "| head -c 8 | tr '\\0' 0; echo"
            for target in self.kind.disks
        ]
        script += [f"cat {path} 2>/dev/null || echo none" for path in (_FILE, _MEMORY)]
        script += [f"ls {_EFIVARS}"] if self.kind.uefi else []
        lines = self._in_guest("; ".join(script)).split()
        count = len(self.kind.disks)
        disks = dict(zip(self.kind.disks, map(int, lines[:count]), strict=True))
        by_file, memory = lines[count : count + 2]
        assert by_file == str(disks["vda"])
        return State(
            disks,
            frozenset(_values("\n".join(lines[count + 2 :]))),
            None if memory == "none" else int(memory),
        )

    def _seen_on_host(self) -> State:
        disks = [disk for disk in self.vm._domain.disks() if disk.target in _SECTORS]
        found = self._on_host((disk.target, disk.format, disk.path) for disk in disks)
        return State(
            {disk.target: value for disk, value in zip(disks, found, strict=True)},
            frozenset(self._variables_on_host()),
            running=self._state.running,
        )

    def _variables_on_host(self) -> set[int]:
        if "variables" not in self.kind.places:
            return set()
        owned = self.vm._record().volume(Role.NVRAM)
        assert owned is not None
        assert self.vm._domain.firmware()[1].endswith(f"/{owned.name}")
        content = StoredVolume(self.host._connection, owned.pool, owned.name).read()
        # Their names are in UTF-16.
        return _values(content.replace(b"\0", b"").decode("latin-1"))

    def _on_host(self, disks: Iterable[tuple[str, str, str]]) -> list[int]:
        """Return the value on each disk, given as target, format and path."""
        commands = [
            f"qemu-io -r -U -f {form} -c 'read -v {_SECTORS[target] * 512} 512' {shlex.quote(path)}"
            for target, form, path in disks
        ]
        if not commands:
            return []
        done = subprocess.run(
            [*enter_host(self.private_host), "sh", "-ec", "\n".join(commands)],
            check=True,
            capture_output=True,
            text=True,
        )
        dump = re.findall(r"^[0-9a-f]{8}:((?:  ?[0-9a-f]{2}){16})", done.stdout, re.MULTILINE)
        assert len(dump) == 32 * len(commands), done.stdout
        texts = [bytes.fromhex(line)[:8] for line in dump[::32]]
        if not self.kind.guest:
            return [text[0] + 999 if text[0] else 0 for text in texts]
        return [int(text.replace(b"\0", b"0")) for text in texts]


def _values(text: str) -> set[int]:
    return {int(value) for value in re.findall(r"Vm(\d{8})", text)}
