"""The error tree: its docstring is the tree, and every error says what it must."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path

import pytest

from vmctl import errors

KINDS = sorted(
    (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.VmctlError)
    ),
    key=lambda kind: kind.__name__,
)


def test_the_docstring_is_the_tree() -> None:
    documented = dict(re.findall(r"(\w+Error)\s+(?:exit code )?(\d)", errors.__doc__ or ""))
    assert documented == {kind.__name__: str(kind.exit_code) for kind in KINDS}


def test_every_error_is_public() -> None:
    assert {kind.__name__ for kind in KINDS} <= set(errors.__all__)
    import vmctl

    assert {kind.__name__ for kind in KINDS} <= set(vmctl.__all__)


SAMPLES = [
    errors.VmctlError("brief", details="details", hint="hint"),
    errors.WrongStateError("brief", state="running"),
    errors.WaitTimeoutError("brief", phase="ssh"),
    errors.SpecError("brief", problems=[errors.SpecProblem("a.b", "is wrong")]),
    errors.RollbackError("brief", left=["x"]),
    errors.CommandFailedError("brief", exit_status=3),
    errors.ProvisioningError("brief", module="m"),
    errors.HypervisorError("brief", code=38),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_copying_and_pickling(error: errors.VmctlError) -> None:
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert {k: str(v) for k, v in vars(twin).items()} == {
            k: str(v) for k, v in vars(error).items()
        }


def test_every_error_has_a_hint() -> None:
    """Wherever vmctl makes an error, it says what to do about it."""
    names = {kind.__name__ for kind in KINDS}
    without = []
    for path in Path(errors.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            hints = [word.value for word in node.keywords if word.arg == "hint"]
            empty = any(isinstance(hint, ast.Constant) and not hint.value for hint in hints)
            if node.func.id in names and (empty or not hints):
                without.append(f"{path.name}:{node.lineno}")
    assert without == []


def test_a_spec_error_lists_its_problems() -> None:
    error = errors.SpecError(
        "bad", problems=[errors.SpecProblem("a", "one"), errors.SpecProblem("", "two")]
    )
    assert str(error) == "bad\na: one\ntwo"
