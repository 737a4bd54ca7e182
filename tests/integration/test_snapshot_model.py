"""Random lives of machines with snapshots, beside a model of what their guests have to read.

The same lives are played each time. By hand, with others and for thousands of steps of each kind:

    VMCTL_MODEL_SEED=7 VMCTL_MODEL_STEPS=1000 .venv/bin/python -m pytest \
        tests/integration/test_snapshot_model.py -k random

What failed says which steps led to it; as a list of them it becomes a test at the end of this file.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import vmctl
from vmctl.hypervisor import private

from .conftest import pool_volumes
from .snapshot_model import Kind, Player

_LOG = logging.getLogger(__name__)
_SEED = int(os.environ.get("VMCTL_MODEL_SEED", "0"))
# Of one kind of machine; by default as many as make 300 of all.
_STEPS = os.environ.get("VMCTL_MODEL_STEPS")
_STEPS_OF_A_LIFE = 30
# Snapshots, and clones, at one time.
_MOST = 5
_CLONES = 2
# Of a guest in one life: from then on nothing is done that leaves it off.
_BOOTS = 2

pytestmark = [
    pytest.mark.timeout(900 + 30 * int(_STEPS or 0)),
]

_INSIDE = Kind("inside")
_MIXED = Kind("mixed", disks=("vda", "vdb"))
_UEFI = Kind("uefi", uefi=True)

# Without guests, for a great many steps by hand.
_BARE = [
    Kind("bare", guest=False),
    Kind("bare-pair", disks=("vda", "vdb"), guest=False),
    Kind("bare-firmware", uefi=True, guest=False),
]

SpecMaker = Callable[..., vmctl.VMSpec]


@pytest.fixture
def make_player(
    host: vmctl.Host, private_host: private.PrivateHost, make_spec: SpecMaker
) -> Iterator[Callable[[Kind], Player]]:
    """Return a maker of players, whose machines are gone afterwards."""
    before = pool_volumes(host)
    players: list[Player] = []

    def make(kind: Kind) -> Player:
        fields: dict[str, object] = {"labels": {"role": kind.name}}
        first: dict[str, object] = {}
        if kind.uefi:
            fields |= {"firmware": "uefi", "memory": "256MiB"}
        if not kind.guest:
            first["size"] = "4MiB"
            fields |= {"image": None, "nics": [], "memory": "32MiB"}
        more = [{"size": "4MiB", "format": "raw"}] * (len(kind.disks) - 1)
        fields["disks"] = [first, *more]

        def launch() -> vmctl.VM:
            return host.launch(make_spec(**fields), wait=kind.guest)

        player = Player(kind, host, private_host, launch)
        players.append(player)
        return player

    yield make
    for player in players:
        player.end()
    left = {name for name in pool_volumes(host) - before if not name.startswith("sha256-")}
    assert left == set()


_WHICH = st.integers(0, _MOST - 1)


def _pick(names: Sequence[str], which: int) -> str:
    return names[which % len(names)]


class Life(RuleBasedStateMachine):
    """One life; where it fails, the next one has another machine."""

    player: ClassVar[Player]

    @property
    def boots_again(self) -> bool:
        return self.player.boots < _BOOTS or not self.player.kind.guest

    @property
    def ways_back(self) -> list[str]:
        return self.player.taken if self.boots_again else self.player.taken_running

    def play(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:
            error.add_note("\n".join(["the steps were:", *self.player.log]))
            _LOG.exception("%s failed after %s", self.player.kind.name, self.player.log)
            self.player.end()
            raise

    @initialize(ticket=st.integers(0, 2**64))
    def begin(self, ticket: int) -> None:
        # Hypothesis begins with what is simplest, which is the same for every seed.
        hypothesis.assume(ticket > 2**16)
        self.play(self.player.begin)

    # In each life some rules are left out; so what matters most is there twice.

    @rule(memory=st.sampled_from([None, None, False]))
    @precondition(lambda self: len(self.player.taken) < _MOST and self.player.last != "take")
    def add(self, memory: bool | None) -> None:
        self.play(lambda: self.player.take(memory))

    @rule(memory=st.sampled_from([None, None, False]))
    @precondition(lambda self: len(self.player.taken) < _MOST and self.player.last != "take")
    def add_more(self, memory: bool | None) -> None:
        self.play(lambda: self.player.take(memory))

    @rule(which=_WHICH)
    @precondition(lambda self: self.player.last != "write")
    def change(self, which: int) -> None:
        self.play(lambda: self.player.write(_pick(self.player.kind.places, which)))

    @rule(which=_WHICH)
    @precondition(lambda self: self.player.last != "write")
    def change_more(self, which: int) -> None:
        self.play(lambda: self.player.write(_pick(self.player.kind.places, which)))

    @rule(which=_WHICH, keep=st.booleans())
    @precondition(lambda self: self.ways_back)
    def go_back(self, which: int, keep: bool) -> None:
        name = _pick(self.ways_back, which)
        keep = keep and len(self.player.taken) < _MOST
        self.play(lambda: self.player.go_back(name, keep=keep))

    @rule(which=_WHICH, children=st.booleans(), fork=st.booleans())
    @precondition(lambda self: self.player.taken)
    def delete(self, which: int, children: bool, fork: bool) -> None:
        # Where several lie on the layers that are left, most can be done wrong.
        names = self.player.forks if fork and self.player.forks else self.player.taken
        name = _pick(names, which)
        self.play(lambda: self.player.delete(name, children=children))

    @rule(which=_WHICH, keep=st.booleans())
    @precondition(lambda self: self.ways_back)
    def go_back_more(self, which: int, keep: bool) -> None:
        self.go_back(which, keep)

    @rule(hard=st.booleans(), again=st.booleans())
    @precondition(lambda self: self.player.running and self.boots_again)
    def stop(self, hard: bool, again: bool) -> None:
        act = self.player.restart if again else self.player.stop
        self.play(lambda: act(hard=hard))

    @rule(flat=st.booleans())
    @precondition(lambda self: self.player.last not in {"flatten", "merge"})
    def tidy(self, flat: bool) -> None:
        self.play(self.player.flatten if flat else self.player.merge)

    @rule(which=_WHICH, linked=st.booleans())
    @precondition(lambda self: len(self.player.clones) < _CLONES)
    @precondition(lambda self: len(self.player.taken) < _MOST)
    def clone(self, which: int, linked: bool) -> None:
        name = _pick(["", *self.player.frozen], which)
        self.play(lambda: self.player.clone(name or None, linked=linked))

    @rule(which=_WHICH, flat=st.booleans())
    @precondition(lambda self: self.player.clones)
    def part(self, which: int, flat: bool) -> None:
        name = _pick(self.player.clones, which)
        act = self.player.flatten_clone if flat else self.player.drop
        self.play(lambda: act(name))


def play(player: Player, steps: int) -> None:
    """Play lives of at least so many steps in all; the same ones each time, for one seed."""
    seed = _SEED
    while player.steps < steps:
        lives = math.ceil((steps - player.steps) / _STEPS_OF_A_LIFE)
        run_state_machine_as_test(
            hypothesis.seed(seed)(type("Life", (Life,), {"player": player})),
            settings=settings(
                max_examples=lives,
                stateful_step_count=_STEPS_OF_A_LIFE,
                deadline=None,
                # By its own seed.
                derandomize=False,
                database=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            ),
            _min_steps=_STEPS_OF_A_LIFE - 1,
        )
        seed += 1000


@pytest.mark.parametrize(
    ("kind", "steps"), [(_INSIDE, 120), (_MIXED, 120), (_UEFI, 60)], ids=["inside", "mixed", "uefi"]
)
def test_random_lives(make_player: Callable[[Kind], Player], kind: Kind, steps: int) -> None:
    play(make_player(kind), int(_STEPS or steps))


@pytest.mark.parametrize("kind", _BARE, ids=lambda kind: kind.name)
def test_random_lives_of_disks(make_player: Callable[[Kind], Player], kind: Kind) -> None:
    play(make_player(kind), int(_STEPS or 40))


def test_branches_whose_root_goes_before_them(make_player: Callable[[Kind], Player]) -> None:
    player = make_player(_BARE[1])
    player.begin()
    player.take()
    player.write("vda")
    player.take()
    root, left = player.taken
    player.go_back(root)
    player.write("vdb")
    player.take()
    player.write("vda")
    # Both branches lie on what it froze, which stays; each snapshot goes on naming its own layers.
    player.delete(root)
    player.go_back(left)
    player.write("vdb")
    player.clone(left, linked=True)
    player.delete(left)
    player.drop(player.clones[0])
    player.delete(left)
    player.go_back(player.taken[0], keep=True)
    player.stop(hard=True)
    player.delete(player.taken[0], children=True)
    player.flatten()


def test_a_layer_that_a_clone_lies_on_though_nobody_knows_its_snapshot(
    make_player: Callable[[Kind], Player],
) -> None:
    player = make_player(_BARE[1])
    player.begin()
    player.write("vda")
    player.take()
    (name,) = player.taken
    player.clone(name, linked=True)
    player.forget(name)
    player.write("vdb")
    # What the guest wrote since lies on it as well, and must not be written into it.
    player.merge()
    player.write("vda")
    player.drop(player.clones[0])
    player.merge()
    player.flatten()
