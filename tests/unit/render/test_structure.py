"""No string that a user writes can change the structure of a document."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lxml import etree

from vmctl.errors import SpecError
from vmctl.render import (
    FirmwareImage,
    HostFacts,
    Placement,
    SeedIdentity,
    render_domain,
    render_seed,
    with_macs,
)
from vmctl.render.templates import to_json
from vmctl.spec import VMSpec
from vmctl.spec.yaml_text import parse_spec

UUID = "8d4a2b3c-1111-4222-8333-444455556666"
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
IDENTITY = SeedIdentity(instance_id="i", host_key_private="k", host_key_public="p")
FACTS = HostFacts(
    kvm=True,
    kvm_offered=True,
    firmware=(
        FirmwareImage(loader="/l", nvram_template="/n"),
        FirmwareImage(loader="/l", nvram_template="/n", secure_boot=True),
    ),
    tpm=True,
    features=frozenset({"9p", "spice", "virtiofs"}),
)

evil = st.one_of(
    st.text(),
    st.text(alphabet="<>&'\"]-!?/=:;#%{}[]|*@`,\\ \t\r\n\0\x1b\x7f\x85\u2028\ufeff\uffff😀é$aA0"),
    st.sampled_from(
        [
            "a' evil='1",
            'a" evil="1',
            "</name><evil/>",
            "]]>",
            "<!-- ",
            "&amp;",
            "&#10;",
            "{{ 7 * 7 }}",
            "{% raw %}",
            "a: b",
            "- a",
            "#cloud-config",
            "a\nruncmd: [id]",
            "'; id; '",
            "yes",
            "null",
            "\ud800",
            "\U0010ffff",
            "..",
            "/../../etc",
        ]
    ),
)


def strings_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every string in a document, keys of free mappings included."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings_in(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from strings_in(inner, (*path, index))


@cache
def documents() -> dict[str, Any]:
    found = {path.stem: parse_spec(path.read_text()) for path in sorted(GOLDEN.glob("*.yaml"))}
    return {name: data for name, data in found.items() if data.get("arch") != "aarch64"}


def places() -> list[tuple[str, tuple[str | int, ...]]]:
    """One place for each field: the first string there is in any golden spec."""
    found: dict[tuple[str, ...], tuple[str, tuple[str | int, ...]]] = {}
    for name, data in documents().items():
        for path in strings_in(data):
            kind = tuple(str(part) for part in path if isinstance(part, str))
            found.setdefault(kind, (name, path))
    return list(found.values())


def put(data: dict[str, Any], path: tuple[str | int, ...], text: str) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    holder: Any = changed
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = text
    return changed


def placement_for(spec: VMSpec) -> Placement:
    return Placement(
        uuid=UUID,
        disks=tuple(f"/d{index}" for index in range(len(spec.disks))),
        disk_formats=tuple(str(disk.format) for disk in spec.disks),
        cdroms=tuple(drive.path or drive.volume for drive in spec.cdroms),
        floppies=tuple(drive.path or drive.volume for drive in spec.floppies),
        has_seed=spec.cloud_init is not None,
        console_log="/log",
        kernel=spec.boot.kernel,
        initrd=spec.boot.initrd,
    )


def tree_of(text: str) -> list[Any]:
    """The structure of an XML document: elements and the names of their attributes."""

    def walk(element: etree._Element) -> list[Any]:
        return [element.tag, sorted(element.attrib), [walk(child) for child in element]]

    return walk(etree.fromstring(text))


def build(data: dict[str, Any]) -> VMSpec | None:
    try:
        return with_macs(VMSpec.model_validate(data), UUID)
    except SpecError:
        return None


@pytest.mark.parametrize(("name", "path"), places(), ids=str)
@given(text=evil)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
def test_string_in_a_field_is_refused_or_changes_a_value_only(
    name: str, path: tuple[str | int, ...], text: str
) -> None:
    data = documents()[name]
    plain, spec = build(data), build(put(data, path, text))
    assert plain is not None
    if spec is None:
        return
    written = _value_at(put(data, path, text), path)
    if _same_shape(plain, spec):
        assert tree_of(render_domain(spec, FACTS, placement_for(spec))) == tree_of(
            render_domain(plain, FACTS, placement_for(plain))
        )
    if spec.cloud_init is None or plain.cloud_init is None:
        return
    before, after = render_seed(plain, IDENTITY), render_seed(spec, IDENTITY)
    for file, content in after.items():
        values = yaml.safe_load(content)
        lines = [line for line in content.decode().split("\n") if line and line[0] != "#"]
        assert {
            line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in lines
        } == values
        if text and _same_shape(plain, spec):
            assert values.keys() == yaml.safe_load(before[file]).keys()
    if path[:2] == ("cloud_init", "runcmd"):
        runcmd = yaml.safe_load(after["user-data"])["runcmd"]
        assert _value_at(runcmd, path[2:]) == written


def _value_at(data: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        data = data[part]
    return data


def _same_shape(one: VMSpec, other: VMSpec) -> bool:
    """Whether a field that decides the structure (an enumeration, a size) has kept its value."""
    return bool(_kinds(one.model_dump()) == _kinds(other.model_dump()))


def _kinds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _kinds(inner) for key, inner in value.items() if key != "labels"}
    if isinstance(value, tuple | list):
        return [_kinds(inner) for inner in value]
    return "text" if type(value) is str else value


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
@example("\x7f\x85\u2028\ufeff\ufffe\uffff😀\U0010ffff\0\b")
@example({"a": 1e22, "b": 1e-7, "c": -0.0, "=": "=", "<<": "x"})
@settings(deadline=None)
def test_what_is_written_as_json_is_read_back_by_json_and_by_yaml(value: Any) -> None:
    text = to_json(value)
    assert "\n" not in text
    assert json.loads(text) == value
    assert yaml.safe_load(f"key: {text}\n")["key"] == value


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@settings(deadline=None)
def test_the_content_of_a_file_arrives_as_it_was_written(content: str) -> None:
    spec = VMSpec(
        name="a", nics=[], cloud_init={"write_files": [{"path": "/a", "content": content}]}
    )
    seed = yaml.safe_load(render_seed(spec, IDENTITY)["user-data"])
    assert seed["write_files"] == [{"path": "/a", "content": content}]
