"""The order of the integration tests, which is data beside them."""

from __future__ import annotations

from pathlib import Path

from ..integration import scheduling


def test_every_weight_is_that_of_something() -> None:
    folder = Path(scheduling.__file__).parent
    for name in scheduling.weights():
        if name == scheduling.QUICKSTART:
            continue
        module, _, test = name.partition(".")
        if not test:
            assert (folder / f"{module}.py").exists(), name
            continue
        assert module in scheduling.APART, name
        function, _, parameter = test.removesuffix("]").partition("[")
        own = (folder / f"{module}.py").read_text(encoding="utf-8")
        assert f"def {function}(" in own, name
        assert f'"{parameter}"' in own or not parameter, name


def test_what_a_piece_is() -> None:
    folder = "tests/integration"
    assert scheduling.piece_of(f"{folder}/test_run.py::test_one[a]") == "test_run"
    assert scheduling.piece_of(f"{folder}/test_run.py::test_two") == "test_run"
    page = f"{folder}/test_docs.py::test_page[docs/how-to/power.md]"
    assert scheduling.piece_of(page) == "test_docs.test_page[docs/how-to/power.md]"
    for test in ("test_quickstart_and_what_it_leaves[micro]", "test_a_quickstart_that_was_killed"):
        assert scheduling.piece_of(f"{folder}/test_docs.py::{test}") == "quickstart"
