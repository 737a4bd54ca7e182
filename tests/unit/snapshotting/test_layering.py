"""Which layers are merged, and that nobody's view of a disk changes by it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmctl.snapshotting.layering import Merge, next_merge

CHAIN = ("o2", "o1", "disk", "image")
OWN = {"o2", "o1", "disk"}
ON_TOP = {"o1": {"o2"}, "disk": {"o1"}, "image": {"disk", "another machine's"}}


def test_a_layer_that_a_snapshot_goes_back_to_stays() -> None:
    found = next_merge("vda", CHAIN, heads={"disk"}, on_top=ON_TOP, own=OWN)
    assert found == Merge(target="vda", top="o2", base="o1", active=True)
    found = next_merge("vda", CHAIN, heads={"o1"}, on_top=ON_TOP, own=OWN)
    assert found == Merge(target="vda", top="o1", base="disk", active=False)
    assert next_merge("vda", CHAIN, heads={"o1", "disk"}, on_top=ON_TOP, own=OWN) is None


def test_nothing_is_merged_into_what_is_shared() -> None:
    assert next_merge("vda", ("disk", "image"), heads=(), on_top=ON_TOP, own=OWN) is None
    branched = {**ON_TOP, "disk": {"o1", "a branch"}}
    assert next_merge("vda", CHAIN, heads={"o1"}, on_top=branched, own=OWN) is None


def test_a_layer_that_something_else_lies_on_is_not_merged_away() -> None:
    branched = {**ON_TOP, "o1": {"o2", "a clone"}}
    assert next_merge("vda", CHAIN, heads=(), on_top=branched, own=OWN) is None


def test_a_disk_of_one_file() -> None:
    assert next_merge("vda", ("disk",), heads=(), on_top={}, own=OWN) is None
    assert next_merge("vda", (), heads=(), on_top={}, own=OWN) is None


@st.composite
def trees(draw: st.DrawFn) -> tuple[dict[int, int | None], dict[int, dict[int, str]], set[int]]:
    """Files that lie on each other, what each has of its own, and those that are gone back to."""
    count = draw(st.integers(2, 9))
    below = {n: None if n == 0 else draw(st.integers(0, n - 1)) for n in range(count)}
    blocks = st.dictionaries(st.integers(0, 3), st.sampled_from("abcdef"), max_size=4)
    content = {n: draw(blocks) for n in range(count)}
    frozen = list(range(count - 1))
    return below, content, set(draw(st.lists(st.sampled_from(frozen), max_size=4)))


def view(
    number: int | None, below: dict[int, int | None], content: dict[int, dict[int, str]]
) -> dict[int, str]:
    """Return what is read from a file."""
    if number is None:
        return {}
    return view(below[number], below, content) | content[number]


@given(trees())
def test_nobody_reads_anything_else_afterwards(
    tree: tuple[dict[int, int | None], dict[int, dict[int, str]], set[int]],
) -> None:
    below, content, heads = tree
    active = max(below)
    seen = {n: view(n, below, content) for n in heads}
    present = view(active, below, content)
    where = {n: n for n in heads}
    for _ in range(20):
        chain, number = [active], below[active]
        while number is not None:
            chain.append(number)
            number = below[number]
        on_top: dict[str, set[str]] = {}
        for file, base in below.items():
            on_top.setdefault(str(base), set()).add(str(file))
        found = next_merge(
            "vda",
            [str(n) for n in chain],
            heads={str(n) for n in where.values()},
            on_top=on_top,
            own={str(n) for n in below},
        )
        if found is None:
            break
        top, base = int(found.top), int(found.base)
        assert found.active == (top == active)
        content[base] = content[base] | content[top]
        for file, lies_on in below.items():
            if lies_on == top:
                below[file] = base
        where = {name: base if file == top else file for name, file in where.items()}
        del below[top], content[top]
        active = base if top == active else active
        # In the middle, with the layer on top still there, all of this holds as well: it has what
        # the one underneath got.
        assert {n: view(where[n], below, content) for n in heads} == seen
        assert view(active, below, content) == present
    else:
        raise AssertionError("it never ends")
