"""Reading and writing specs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from vmctl.errors import SpecError
from vmctl.spec import DiskSpec, NicType, RngSpec, VMSpec, json_schema
from vmctl.spec.describing import field_descriptions, models_of

NOT_A_SPEC = [
    ("", "is empty"),
    ("# nothing\n", "is empty"),
    ("- a\n- b\n", "is a list, and not a mapping"),
    ("web\n", "is just 'web'"),
    ("name: [a\n", "not valid YAML: line 2, column 1"),
    ("name: a\n\tmemory: 1GiB\n", "a tab where spaces are wanted"),
    ("name: a\nname: b\n", "line 2, column 1: the key 'name' is given twice"),
    ("name: a\n---\nname: b\n", "not valid YAML"),
    ("name: &a [*a]\n", "an alias contains itself"),
    ("name: !!python/object/apply:os.system [id]\n", "not valid YAML"),
    ("? [a]\n: b\n", "a key must be text"),
    ("1: a\nname: b\n", "1 is not a field's name"),
    ("[" * 5000, "nested too deeply"),
    (
        "name: a\nlabels:\n  a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"  {name}: &{name} [{','.join(['*' + below] * 10)}]\n"
            for below, name in zip("abcde", "bcdef", strict=True)
        ),
        "unfolds to more than 100000 values",
    ),
]


@pytest.mark.parametrize(("text", "message"), NOT_A_SPEC)
def test_text_that_is_no_spec(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        VMSpec.from_yaml(text, source="x.yaml")
    assert caught.value.brief.startswith("x.yaml")
    assert message in caught.value.brief
    assert caught.value.exit_code == 7
    assert caught.value.hint


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no file") as caught:
        VMSpec.load(tmp_path / "web.yaml")
    assert caught.value.hint


def test_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read: Is a directory"):
        VMSpec.load(tmp_path)
    with pytest.raises(SpecError, match="can't be read"):
        VMSpec.load("a\0b")


def test_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(SpecError, match=r"not a text file in UTF-8 \(byte 6\)"):
        VMSpec.load(path)
    path.write_bytes(b"#" * (4 * 1024**2 + 1))
    with pytest.raises(SpecError, match="larger than 4 MiB"):
        VMSpec.load(path)


def test_byte_order_mark_is_no_part_of_the_spec(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: web\n")
    assert VMSpec.load(path).name == "web"


def test_plain_scalars_that_yaml_1_1_takes_for_something_else() -> None:
    spec = VMSpec.from_yaml(
        "name: no\nnics: [{network: default, mac: 52:54:00:12:34:56}]\n"
        "labels: {a: 1_0, b: 2020-01-01}\n"
        "cloud_init: {write_files: [{path: /a, permissions: 0644}, {path: /b, permissions: 600}]}"
    )
    assert spec.name == "no"
    assert spec.nics[0].mac == "52:54:00:12:34:56"
    assert spec.labels == {"a": "1_0", "b": "2020-01-01"}
    assert spec.cloud_init is not None
    assert [file.permissions for file in spec.cloud_init.write_files] == ["0644", "0600"]


def test_raw_user_data_is_read_as_cloud_init_reads_it() -> None:
    spec = VMSpec.from_yaml("name: a\ncloud_init:\n  user_data: |\n    #cloud-config\n    a: yes\n")
    assert spec.cloud_init is not None
    assert spec.cloud_init.user_data == {"a": True}


def test_merge_keys_and_aliases() -> None:
    spec = VMSpec.from_yaml(
        "name: a\ndisks:\n  - &d {size: 1GiB, bus: scsi}\n  - {<<: *d, bus: virtio}\n"
    )
    assert [disk.bus for disk in spec.disks] == ["scsi", "virtio"]


def test_python_gets_the_same_error() -> None:
    wrong = {"name": "a", "nics": [{"bridge": "b", "frob": 1}]}
    found = []
    with pytest.raises(SpecError) as caught:
        VMSpec(**wrong)
    found.append(caught.value)
    with pytest.raises(SpecError) as caught:
        VMSpec.model_validate(wrong)
    found.append(caught.value)
    with pytest.raises(SpecError) as caught:
        VMSpec.model_validate_json(json.dumps(wrong))
    found.append(caught.value)
    for error in found:
        assert [problem.path for problem in error.problems] == ["nics[0].frob"]
    with pytest.raises(SpecError):
        DiskSpec(size="1")
    with pytest.raises(SpecError):
        VMSpec.model_validate_json("{")
    with pytest.raises(SpecError):
        VMSpec.model_validate(["name"])


def test_spec_is_frozen_and_replaced() -> None:
    spec = VMSpec(name="a", memory="1GiB")
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "b"  # type: ignore[misc]
    assert str(spec.replace(memory="2GiB").memory) == "2GiB"
    with pytest.raises(SpecError):
        spec.replace(memory="2")
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301


def test_what_is_written_counts_for_equality() -> None:
    assert VMSpec(name="a") == VMSpec(name="a")
    assert VMSpec(name="a") != VMSpec(name="a", rng=None)
    assert VMSpec(name="a") != "a"


def test_null_switches_off_what_the_profile_would_add() -> None:
    assert VMSpec(name="a").resolved().rng == RngSpec()
    assert VMSpec(name="a", rng=None).resolved().rng is None
    assert VMSpec.from_yaml("name: a\nnics:\n").resolved().nics == ()
    assert VMSpec(name="a", image="i").resolved().cloud_init is not None
    assert VMSpec(name="a", image="i", cloud_init=None).resolved().cloud_init is None
    assert VMSpec(name="a", image="i", disks=[]).resolved().disks == ()


def test_profile_decides() -> None:
    modern, legacy = VMSpec(name="a").resolved(), VMSpec(name="a", profile="legacy").resolved()
    assert (modern.machine, legacy.machine) == ("q35", "pc")
    assert (modern.nics[0].model, legacy.nics[0].model) == ("virtio", "e1000")
    assert (modern.clock.offset, legacy.clock.offset) == ("utc", "localtime")
    assert (modern.agent, legacy.agent) == (True, False)
    session = VMSpec(name="a").resolved(networks=False)
    assert session.nics[0].type is NicType.USER
    assert session.resolved() == session


def test_hostname_is_made_from_the_name() -> None:
    resolved = VMSpec(name="Web_1.a-", cloud_init={}).resolved()
    assert resolved.cloud_init is not None
    assert resolved.cloud_init.hostname == "web-1-a"


def test_record_has_no_secrets_and_can_be_read_back() -> None:
    spec = VMSpec.from_yaml(
        "name: a\ncloud_init:\n"
        "  users: [{name: u, hashed_passwd: $6$salt$SECRETSECRET, lock_passwd: false}]\n"
        "  write_files: [{path: /a, content: SECRET}, {path: /b}]\n"
        "  runcmd: [echo SECRET]\n  bootcmd: [[echo, SECRET]]\n"
        "  user_data: {a: SECRET}\n  vendor_data: {a: SECRET}\n"
        "  network_config: {version: 2, wifis: {w: {password: SECRET}}}\n"
        "graphics: [spice, {type: vnc, password: SECRET}]\n"
    )
    assert "SECRET" not in repr(spec.graphics)
    record = spec.without_secrets()
    assert "SECRET" not in str(record)
    assert record["redacted"] == [
        "cloud_init.user_data",
        "cloud_init.vendor_data",
        "cloud_init.network_config",
        "cloud_init.runcmd",
        "cloud_init.bootcmd",
        "cloud_init.users[0].hashed_passwd",
        "cloud_init.write_files[0].content",
        "graphics[1].password",
    ]
    again = VMSpec.from_record(record)
    assert again.name == "a"
    assert again.cloud_init is not None
    assert again.cloud_init.users[0].name == "u"
    assert "redacted" not in VMSpec(name="a").without_secrets()


def test_json_schema_knows_short_forms_and_every_field() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(VMSpec.model_fields)
    assert schema["additionalProperties"] is False
    assert {form.get("type") for form in schema["$defs"]["SerialSpec"]["anyOf"]} >= {"object"}
    assert "user" in schema["$defs"]["NicSpec"]["properties"]
    for model in models_of(VMSpec):
        assert set(field_descriptions(model)) == set(model.model_fields), model
    assert schema["properties"]["name"]["description"].startswith("The machine's name")
    assert "NIC" not in schema["$defs"]["DiskSpec"]["properties"]["bus"]["description"]


def test_half_of_a_surrogate_pair_is_refused_everywhere() -> None:
    half = "\\ud800"
    with pytest.raises(SpecError, match="surrogate"):
        VMSpec.from_yaml(f'name: a\nnics: [{{network: n, address: "{half}"}}]')
    with pytest.raises(SpecError):
        VMSpec.from_yaml(f'name: a\nimage: "{half}"')
    with pytest.raises(SpecError, match="surrogate"):
        VMSpec(name="a", nics=[{"network": "n", "address": "\ud800"}])
