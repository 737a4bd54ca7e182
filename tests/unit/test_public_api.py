"""The public interface: what ``vmctl.__all__`` says, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vmctl
import vmctl.errors

HEAVY = (
    "libvirt",
    "libvirtmod",
    "paramiko",
    "pydantic",
    "lxml",
    "cryptography",
    "jinja2",
    "yaml",
    "httpx",
    "zstandard",
)


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that a new interpreter has after running some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_names_are_sorted_and_listed_once() -> None:
    # As ruff sorts them: constants, then classes, then the rest, each by its letters.
    assert len(set(vmctl.__all__)) == len(vmctl.__all__)
    assert set(dir(vmctl)) == set(vmctl.__all__)
    for kind in (str.isupper, lambda name: not name.isupper()):
        names = [name for name in vmctl.__all__ if kind(name)]
        assert names == sorted(names)


@pytest.mark.parametrize("name", vmctl.__all__)
def test_name_can_be_imported_and_is_documented(name: str) -> None:
    value = getattr(vmctl, name)
    if name.startswith("__"):
        assert isinstance(value, str)
        return
    assert (value.__doc__ or "").strip()
    assert value.__module__.startswith("vmctl")


def test_nothing_else_is_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        vmctl.nonsense  # noqa: B018


def test_every_error_is_public() -> None:
    errors = {name for name in vmctl.errors.__all__ if name.endswith("Error")}
    assert errors == {name for name in vmctl.__all__ if name.endswith("Error")}


def test_names_for_type_checkers_are_those_at_run_time() -> None:
    text = Path(str(vmctl.__file__)).read_text(encoding="utf-8")
    block = text.partition("if TYPE_CHECKING:")[2].partition("\n_ERRORS")[0]
    checked = {
        word.strip(" ,")
        for line in block.splitlines()
        for word in line.partition(" import ")[2 if " import " in line else 0].split(",")
    }
    assert set(vmctl._HOMES) == {word for word in checked if word.isidentifier()}
    assert set(vmctl.__all__) == {*vmctl._HOMES, "__version__"}


def test_importing_vmctl_loads_nothing_heavy() -> None:
    assert loaded_after("import vmctl; vmctl.__version__").isdisjoint(HEAVY)


def test_errors_load_nothing_heavy() -> None:
    assert loaded_after("from vmctl import VmctlError, SpecError").isdisjoint(HEAVY)


def test_a_spec_loads_neither_libvirt_nor_ssh() -> None:
    loaded = loaded_after("from vmctl import VMSpec; VMSpec(name='a')")
    assert loaded.isdisjoint({"libvirt", "libvirtmod", "paramiko", "cryptography"})


def test_a_list_of_machines_loads_neither_specs_nor_ssh() -> None:
    loaded = loaded_after("import vmctl\nwith vmctl.connect('test:///default') as h: h.list()")
    assert "libvirt" in loaded
    assert loaded.isdisjoint(set(HEAVY) - {"libvirt", "libvirtmod", "lxml"})


def test_the_version_costs_nothing() -> None:
    loaded = loaded_after(
        "import sys\n"
        "from vmctl.cli.main import main\n"
        "sys.argv = ['vmctl', '--version']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert loaded.isdisjoint({*HEAVY, "rich"})
