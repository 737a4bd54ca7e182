"""The chain of folders in which a template can be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.errors import SpecError, UsageError
from vmctl.render import HostFacts, Placement, Templates, render_domain
from vmctl.render.templates import to_json
from vmctl.spec import VMSpec

SPEC = VMSpec(name="a")
PLACEMENT = Placement(uuid="8d4a2b3c-1111-4222-8333-444455556666")


@pytest.fixture(autouse=True)
def no_folders_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("VMCTL_TEMPLATE_PATH", raising=False)


def rng_in(folder: Path, text: str) -> Path:
    devices = folder / "domain_templates" / "devices"
    devices.mkdir(parents=True)
    (devices / "rng.xml.j2").write_text(text)
    return folder


def render(templates: Templates | None = None) -> str:
    return render_domain(SPEC, HostFacts(), PLACEMENT, templates=templates)


def test_one_partial_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    text = render(Templates(rng_in(tmp_path / "own", "    <!-- mine -->\n")))
    assert "<!-- mine -->" in text
    assert "<rng" not in text
    assert "<memballoon" in text
    assert "<rng" in render()


def test_order_is_argument_then_variable_then_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng_in(tmp_path / "config" / "vmctl", "<!-- config -->")
    assert "<!-- config -->" in render()
    one = rng_in(tmp_path / "one", "<!-- one -->")
    two = rng_in(tmp_path / "two", "<!-- two -->")
    monkeypatch.setenv("VMCTL_TEMPLATE_PATH", f"{one}:{two}")
    assert "<!-- one -->" in render()
    monkeypatch.setenv("VMCTL_TEMPLATE_PATH", f"{tmp_path / 'nothing'}:{two}")
    assert "<!-- two -->" in render()
    assert "<!-- one -->" in render(Templates(one))


def test_the_default_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Templates.default() is Templates.default()
    before = Templates.default()
    monkeypatch.setenv("VMCTL_TEMPLATE_PATH", str(tmp_path))
    assert Templates.default() is not before


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        Templates(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% if %}", "is wrong in line 1"),
        ("{{ spec.frob }}", "frob"),
        ("{{ nothing_like_it }}", "nothing_like_it"),
        ("{{ spec.sound }}", "a value is not set"),
        ("{% include 'devices/none.xml.j2' %}", "devices/none.xml.j2 is missing"),
    ],
)
def test_template_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(Templates(rng_in(tmp_path / "own", text)))


def test_seed_template_that_forgets_the_filter(tmp_path: Path) -> None:
    (tmp_path / "cloud-init").mkdir()
    (tmp_path / "cloud-init" / "meta-data").write_text("instance-id: {{ instance_id }}\n")
    with pytest.raises(UsageError, match="with the filter 'json'"):
        Templates(tmp_path).seed("meta-data", {"instance_id": "i"})
    (tmp_path / "cloud-init" / "user-data").write_text("{{ name | key }}: 1\n")
    with pytest.raises(UsageError, match="can't be a key"):
        Templates(tmp_path).seed("user-data", {"name": "a: b"})


def test_path_that_xml_can_not_hold() -> None:
    spec = VMSpec(name="a", disks=[{"volume": "v"}])
    placement = Placement(
        uuid="8d4a2b3c-1111-4222-8333-444455556666", disks=("/a\nb",), disk_formats=("raw",)
    )
    with pytest.raises(SpecError, match="control character"):
        render_domain(spec, HostFacts(), placement)


def test_value_without_a_form_in_json() -> None:
    with pytest.raises(TypeError):
        to_json(b"bytes")
    with pytest.raises(ValueError, match="no form"):
        to_json(float("nan"))
