"""docs/reference/spec.md has every field."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from vmctl.spec import (
    NetworkMode,
    NetworkSpec,
    PoolSpec,
    PoolType,
    SecurityGroupSpec,
    VMSpec,
)
from vmctl.spec.problems import model_in

POOL = Path(__file__).resolve().parents[3] / "docs" / "reference" / "pool.md"
NETWORK = Path(__file__).resolve().parents[3] / "docs" / "reference" / "network.md"
GROUP = Path(__file__).resolve().parents[3] / "docs" / "reference" / "security-group.md"
REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "spec.md"


def fields_of(model: type[BaseModel], path: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        lists = "[]" if "tuple" in str(field.annotation) else ""
        found.add(f"{path}{name}")
        if inner is not None:
            found |= fields_of(inner, f"{path}{name}{lists}.")
    return found


def test_the_reference_has_every_field_and_no_other() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", REFERENCE.read_text(), flags=re.MULTILINE)
    assert set(rows) == fields_of(VMSpec)
    assert len(rows) == len(set(rows))


def test_the_reference_of_pools_has_every_field_and_every_type() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", POOL.read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(fields_of(PoolSpec) | set(PoolType))


def test_the_reference_of_networks_has_every_field_and_every_mode() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", NETWORK.read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted([*fields_of(NetworkSpec), *NetworkMode])


def test_the_reference_of_security_groups_has_every_field() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", GROUP.read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(fields_of(SecurityGroupSpec))
