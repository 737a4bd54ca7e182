"""Clients and libvirtd killed at random moments of all that is done with snapshots and copies.

Each round is one test: what is done with which machine, who is killed, and when, follows from
its number and a seed. ``VMCTL_TEST_FIRE=FIRST-LAST`` plays those rounds, for hundreds by hand, and
``VMCTL_TEST_FIRE_SEED`` another choice of them.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.lost_backups import has_lost

from .conftest import forget_lost, pool_volumes
from .striking import Arena, Tiny, chosen
from .test_snapshot_faults import run_of

pytestmark = pytest.mark.timeout(600)

_SEED = os.environ.get("VMCTL_TEST_FIRE_SEED", "vmctl")
_FIRST, _, _LAST = os.environ.get("VMCTL_TEST_FIRE", "1-6").partition("-")
_ROUNDS = range(int(_FIRST), int(_LAST or _FIRST) + 1)
_VERBS = [
    *["create", "create-disks", "revert", "revert", "delete", "delete"],
    *["clone", "clone-linked", "clone-of", "clone-linked-of", "backup", "backup"],
    *["restore", "restore-new", "flatten"],
]
# Internal snapshots have no files that a clone could lie on.
_EXTERNAL_ONLY = {"create-disks", "clone-linked", "clone-of", "clone-linked-of", "flatten"}

_OF_SNAPSHOTS = {"revert", "delete", "clone-of", "clone-linked-of", "flatten"}


@pytest.fixture(scope="module")
def arena(private_host: private.PrivateHost, host: vmctl.Host) -> Arena:
    return Arena(private_host, host)


class Stable:
    """The machines that rounds are played with: made when asked for, and anew after a failure."""

    def __init__(self, arena: Arena, folder: Path) -> None:
        self._arena = arena
        self._folder = folder
        self._machines: dict[str, Tiny] = {}

    def get(self, kind: str) -> Tiny:
        if kind not in self._machines:
            folder = self._folder / kind
            folder.mkdir(exist_ok=True)
            bios = kind == "internal"
            self._machines[kind] = Tiny.make(self._arena, folder, name=f"tiny-{kind}", bios=bios)
        return self._machines[kind]

    def clear(self) -> None:
        for entry in self._arena.host.list():
            self._arena.host.get(entry.name).delete()
        self._machines.clear()
        pool = self._arena.host._connection.raw.storagePoolLookupByName("default")
        for name in pool_volumes(self._arena.host):
            pool.storageVolLookupByName(name).delete()


@pytest.fixture(scope="module")
def stable(arena: Arena, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stable]:
    made = Stable(arena, tmp_path_factory.mktemp("tiny"))
    yield made
    arena.at_rest()
    made.clear()


@dataclass
class Round:
    """One thing that is done, with what holds before it.

    Attributes:
        arena: Where.
        tiny: What it is done with.
        verb: What is done.
        runs: Whether the machine runs meanwhile.
        folder: For its backups.
        word: What its disks hold.
        snapshots: What its disks hold in each of its snapshots.
        backups: What they hold in each backup.
    """

    arena: Arena
    tiny: Tiny
    verb: str
    runs: bool
    folder: Path
    word: int = 0
    snapshots: dict[str, int] = field(default_factory=dict)
    backups: dict[str, int] = field(default_factory=dict)

    def prepare(self, rng: random.Random) -> tuple[vmctl.VM, list[str]]:
        """Bring the machine where it can be done; returns with which one, and the words for it."""
        machine = vm = self.tiny.vm
        vm.start()
        self._write(rng)
        if self.verb in _OF_SNAPSHOTS or (self.verb.startswith("create") and rng.random() < 0.5):
            for name in ("a", "b")[: rng.randint(1, 2)]:
                self._take(name, rng)
        if self.verb.startswith("restore") or (self.verb == "backup" and rng.random() < 0.5):
            self._back_up()
            self._write(rng)
        which = [rng.choice(sorted(self.snapshots))] if self.verb in _OF_SNAPSHOTS else []
        if self.verb == "flatten":
            machine = vm.clone("tiny-linked", from_snapshot=which.pop(), linked=True)
            if self.runs:
                machine.start()
        if not self.runs:
            vm.stop(timeout=0, force=True)
        first = {
            "create": ["new"],
            "create-disks": ["new"],
            "backup": [str(self.folder)],
            "restore": [str(self.folder)],
            "restore-new": [str(self.folder), "tiny-new"],
        }.get(self.verb, ["tiny-new"] if "clone" in self.verb else [])
        return machine, [self.verb, *first, *which]

    def _write(self, rng: random.Random) -> None:
        self.word = rng.choice([word for word in range(1, 256) if word != self.word])
        self.tiny.write(self.word)

    def _take(self, name: str, rng: random.Random) -> None:
        vm = self.tiny.vm
        with_memory = self.tiny.bios or rng.random() < 0.5
        vm.snapshots.create(name, memory=None if with_memory else False)
        self.snapshots[name] = self.word
        self._write(rng)

    def _back_up(self) -> None:
        self.backups[self.tiny.vm.backup(self.folder).id] = self.word

    def see(
        self, machine: vmctl.VM, run: int, words: list[str], *, done: bool, closely: bool = True
    ) -> bool:
        """See that all of it was done, or nothing; returns which.

        Args:
            machine: With which it was done.
            run: Which run of it that was.
            words: What was done.
            done: Whether it was said to have been.
            closely: Whether all that can be gone back to is gone back to.
        """
        tiny = self.tiny
        self.arena.at_rest()
        tiny.agrees()
        after = getattr(self, f"_see_{self.verb.partition('-')[0]}")(machine, words[1:])
        assert after or not done
        if self.verb not in {"revert", "restore"}:
            if self.runs and not self.arena.lost:
                assert (machine.state, run_of(machine)) == ("running", run)
            else:
                assert machine.state == "shut off"
            assert tiny.read() == {self.word}
        self._go_on(machine, closely=closely)
        return bool(after)

    def _see_create(self, _machine: vmctl.VM, words: list[str]) -> bool:
        names = {entry.name for entry in self.tiny.vm.snapshots.list()}
        assert names - {words[0]} == set(self.snapshots)
        if words[0] in names:
            self.snapshots[words[0]] = self.word
        return words[0] in names

    def _see_revert(self, machine: vmctl.VM, words: list[str]) -> bool:
        (found,) = self.tiny.read()
        assert found in {self.word, self.snapshots[words[0]]}
        assert machine.state in {"running", "shut off"}
        after = found == self.snapshots[words[0]]
        if after:
            current = [entry for entry in machine.snapshots.list() if entry.current]
            assert [entry.name for entry in current] == words
            assert (machine.state == "running") == current[0].memory
        self.word = found
        return after

    def _see_delete(self, _machine: vmctl.VM, words: list[str]) -> bool:
        names = {entry.name for entry in self.tiny.vm.snapshots.list()}
        assert names | {words[0]} == set(self.snapshots)
        if words[0] not in names:
            del self.snapshots[words[0]]
        return words[0] not in names

    def _see_clone(self, _machine: vmctl.VM, words: list[str]) -> bool:
        word = self.snapshots[words[1]] if len(words) > 1 else self.word
        # A linked clone takes a snapshot of its own first.
        for entry in self.tiny.vm.snapshots.list():
            self.snapshots.setdefault(entry.name, self.word)
        return self._see_new(words[0], word)

    def _see_new(self, name: str, word: int) -> bool:
        if name not in {entry.name for entry in self.arena.host.list()}:
            return False
        new = self.arena.host.get(name)
        assert self.tiny.read(new) == {word}
        self.tiny.boots(new)
        new.delete()
        return True

    def _see_backup(self, _machine: vmctl.VM, _words: list[str]) -> bool:
        if not self.folder.exists():
            return False
        folder = vmctl.Backups(self.folder)
        listed = folder.list()
        assert [entry.problem for entry in listed] == [""] * len(listed)
        assert [entry.problem for entry in folder.verify()] == [""] * len(listed)
        after = len(listed) - len(self.backups)
        assert after in {0, 1}
        for entry in listed:
            self.backups.setdefault(entry.id, self.word)
            back = self.arena.host.restore(self.folder, id=entry.id, name="tiny-back")
            assert self.tiny.read(back) == {self.backups[entry.id]}
            self.tiny.boots(back)
            back.delete()
        return after == 1

    def _see_restore(self, machine: vmctl.VM, words: list[str]) -> bool:
        word = self.backups[max(self.backups)]
        if len(words) > 1:
            assert self.tiny.read() == {self.word}
            return self._see_new(words[1], word)
        (found,) = self.tiny.read()
        assert found in {self.word, word}
        assert machine.state == "shut off"
        after, self.word = found == word, found
        return after

    def _see_flatten(self, machine: vmctl.VM, _words: list[str]) -> bool:
        (found,) = self.tiny.read(machine)
        assert found in self.snapshots.values()
        chains = {len(disk.chain) for disk in machine.info().disks}
        return chains == {1}

    def _go_on(self, machine: vmctl.VM, *, closely: bool) -> None:
        """See that all of it boots and can be gone back to, and leave nothing."""
        tiny, vm = self.tiny, self.tiny.vm
        if has_lost(vm._domain):
            forget_lost(self.arena.private_host, vm)
            vm.start()
        if self.verb == "flatten":
            tiny.boots(machine)
            machine.delete()
        if closely:
            tiny.boots()
            assert tiny.read() == {self.word}
            for name, word in self.snapshots.items():
                vm.snapshots.revert(name)
                assert tiny.read() == {word}
        tiny.without_snapshots()
        self.arena.at_rest()


@pytest.mark.parametrize("number", _ROUNDS)
def test_a_round(arena: Arena, stable: Stable, tmp_path: Path, number: int) -> None:
    rng = random.Random(f"{_SEED} {number}")  # noqa: S311
    verb, who, part = chosen(rng, _VERBS)
    kind = "external" if verb in _EXTERNAL_ONLY else rng.choice(["external", "internal"])
    runs = verb != "restore" and rng.random() < 0.75
    what = f"{kind} {'running' if runs else 'off'} {verb}"
    try:
        tiny = stable.get(kind)
        if what not in arena.durations:
            first = Round(arena, tiny, verb, runs, tmp_path / "first")
            machine, words = first.prepare(random.Random(what))  # noqa: S311
            run = run_of(machine)
            arena.durations[what] = arena.measure(machine, *words)
            assert first.see(machine, run, words, done=True, closely=False)
        played = Round(arena, tiny, verb, runs, tmp_path / "struck")
        machine, words = played.prepare(rng)
        run = run_of(machine)
        seconds = part * arena.durations[what]
        status, said = arena.strike(machine, who, seconds, *words)
        print(f"{number}: {what} {words[1:]}: {who} at {part:.2f} of {arena.durations[what]:.2f} s:"
              f" {status} {said.splitlines()[-1:] }")  # fmt: skip
        assert status in {0, -signal.SIGKILL} or "\nvmctl.errors." in said, said
        after = played.see(machine, run, words, done=status == 0)
        print(f"{number}: {'after' if after else 'before'}")
    except BaseException:
        stable.clear()
        raise
