"""Each module can be the first that is imported: none waits for one that waits for it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def modules(folder: Path) -> dict[str, Path]:
    """Return every module below a folder by its dotted name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Return the imports that run when a module is imported: not those in functions."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from imports_of(statement.orelse)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "finalbody"):
                yield from imports_of(getattr(statement, name, []))


def graph(folder: Path) -> dict[str, set[str]]:
    """Return which modules each module needs while it is imported."""
    known = modules(folder)
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        needed: set[str] = set()
        for statement in imports_of(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(statement, ast.Import):
                needed |= {alias.name for alias in statement.names}
                continue
            assert not statement.level, f"{name} imports relatively, which is not followed here"
            whence = statement.module or ""
            for alias in statement.names:
                submodule = f"{whence}.{alias.name}"
                needed.add(submodule if submodule in known else whence)
        found[name] = {entry for entry in needed if entry in known} - {name}
    return found


def test_no_modules_import_each_other() -> None:
    needed = graph(ROOT / "vmctl")
    assert len(needed) > 300
    try:
        TopologicalSorter(needed).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


def test_a_circle_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "one.py").write_text("from package.two import x\n")
    (folder / "two.py").write_text("try:\n    from package import one\nfinally:\n    pass\n")
    with pytest.raises(CycleError):
        TopologicalSorter(graph(folder)).prepare()
    late = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import package.one\n"
    (folder / "two.py").write_text(f"{late}def f():\n    from package import one\n")
    assert graph(folder)["package.two"] == set()


def test_a_new_interpreter_imports_every_module() -> None:
    # Those that nothing else needs come last by themselves; backwards is an order of its own.
    names = ", ".join(sorted(modules(ROOT / "vmctl"), reverse=True))
    done = subprocess.run(
        [sys.executable, "-c", f"import {names}"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
