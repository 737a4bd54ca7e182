"""Pool XML: golden files, one for each kind, valid by libvirt's schema.

A case is ``tests/golden/pools/NAME.yaml``, and ``NAME.xml`` what is rendered from it.
``pytest --rewrite-golden`` writes the results.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from pydantic import BaseModel

from vmctl.errors import SpecError
from vmctl.render.pool import render_pool
from vmctl.spec.pool import PoolSpec, PoolType
from vmctl.spec.problems import model_in

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "pools"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
SCHEMA = Path("/usr/share/libvirt/schemas/storagepool.rng")
UUID = "5d4c6a5e-0b0a-4a4b-9b0e-6c7f8e9d0a1b"


@cache
def schema() -> etree.RelaxNG:
    assert SCHEMA.exists(), f"{SCHEMA} is missing: install libvirt-daemon-system or libvirt-dev"
    return etree.RelaxNG(etree.parse(SCHEMA))


def load(case: str) -> PoolSpec:
    return PoolSpec.load(GOLDEN / f"{case}.yaml")


@pytest.mark.parametrize("case", CASES)
def test_case_is_rendered_as_it_was(case: str, rewrite_golden: bool) -> None:
    path = GOLDEN / f"{case}.xml"
    xml = render_pool(load(case), uuid=UUID)
    if rewrite_golden:
        path.write_text(xml)
    assert xml == path.read_text()


@pytest.mark.parametrize("case", CASES)
def test_case_is_valid_by_libvirts_schema(case: str) -> None:
    assert schema().validate(etree.fromstring(render_pool(load(case)))), str(schema().error_log)


@pytest.mark.parametrize("case", CASES)
def test_a_spec_survives_being_written(case: str) -> None:
    assert PoolSpec.from_yaml(load(case).to_yaml()) == load(case)


def test_there_is_a_case_for_every_kind() -> None:
    assert {load(case).type for case in CASES} == set(PoolType)
    assert {path.name for path in GOLDEN.iterdir()} == {
        f"{case}.{kind}" for case in CASES for kind in ("yaml", "xml")
    }


def fields_of(model: type[BaseModel], path: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        found.add(f"{path}{name}")
        if (inner := model_in(field.annotation)) is not None:
            found |= fields_of(inner, f"{path}{name}.")
    return found


def written_in(model: BaseModel, path: str = "") -> set[str]:
    found = set()
    for name in model.model_fields_set:
        found.add(f"{path}{name}")
        value = getattr(model, name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, BaseModel):
                found |= written_in(inner, f"{path}{name}.")
    return found


def test_every_field_reaches_a_golden_file() -> None:
    written = set().union(*(written_in(load(case)) for case in CASES))
    assert fields_of(PoolSpec) - written == set()


ISCSI: dict[str, Any] = {
    "hosts": "san",
    "devices": "iqn.2025-01.org.example:t",
    "initiator": "iqn.2025-01.org.example:i",
}


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ({"type": "dir"}, "target", "needs it"),
        ({"type": "dir", "target": "/a", "source": {"name": "x"}}, "source.name", "leave it out"),
        ({"type": "dir", "target": "vms"}, "target", "not an absolute path"),
        ({"type": "dir", "target": "/"}, "target", "can't be a pool's folder"),
        ({"type": "dir", "target": "/srv/../etc"}, "target", "can't be a pool's folder"),
        ({"type": "fs", "target": "/a", "source": {"devices": "sdb"}}, "source.devices[0]", "abso"),
        (
            {"type": "fs", "target": "/a", "source": {"devices": "/dev/sdb", "format": "btrfs"}},
            "source.format",
            "is not one of auto, ext2",
        ),
        (
            {"type": "fs", "target": "/a", "source": {"devices": ["/dev/sdb", "/dev/sdc"]}},
            "source.devices",
            "has one device",
        ),
        ({"type": "iscsi-direct", "source": {"hosts": "a"}}, "source.devices", "needs it"),
        (
            {"type": "iscsi-direct", "source": ISCSI | {"devices": "/dev/sdb"}},
            "source.devices[0]",
            "names an iSCSI target",
        ),
        (
            {"type": "iscsi-direct", "source": ISCSI | {"hosts": "san:3260"}},
            "source.hosts[0].name",
            "goes into `port`",
        ),
        (
            {
                "type": "iscsi-direct",
                "source": ISCSI | {"auth": {"username": "a", "secret": {}}},
            },
            "source.auth.secret",
            "usage or by its uuid",
        ),
        (
            {
                "type": "iscsi-direct",
                "source": ISCSI | {"auth": {"username": "a", "password": "b"}},
            },
            "source.auth.password",
            "is not a field",
        ),
        ({"type": "floppy", "target": "/a"}, "type", "is not one of dir, fs"),
        ({"type": "dir", "target": "/a", "name": "a/b"}, "name", "is not a name"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(data: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        PoolSpec.model_validate({"name": "p", **data})
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert message in found[path], found
