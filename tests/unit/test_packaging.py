"""The built wheel: what is in it, and that it works where there is no source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import vmctl
from vmctl.render.templates import Templates

ROOT = Path(__file__).resolve().parents[2]
DATA = ("domain_templates", "cloud-init")
LIST = """
from vmctl.render.templates import Templates
folder = Templates().folders[-1]
print(folder)
print(*(path.relative_to(folder) for name in ("domain_templates", "cloud-init")
        for path in (folder / name).rglob("*") if path.is_file()))
"""


def build(kind: str, target: Path) -> Path:
    """Build without a network: with the hatchling that is installed."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", target, ROOT],
        check=True,
        capture_output=True,
        text=True,
    )
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with the wheel, and what it needs beside it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    offline = ("--no-deps", "--no-index", "--quiet")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", *offline, str(wheel)],
        check=True,
        capture_output=True,
    )
    # The dependencies are lent by the environment that the tests run in, behind the wheel's own
    # folder. A .pth file in a folder that is named by another is not read, so the editable install
    # does not come along.
    (site / "lent.pth").write_text(f"{Path(pytest.__file__).parent.parent}\n")
    return python


def names_in(folder: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()}


def run(python: Path, *words: str, cwd: Path) -> str:
    clean = {
        key: text for key, text in os.environ.items() if not key.startswith(("PYTHON", "VMCTL"))
    }
    done = subprocess.run(
        [python, *words], cwd=cwd, env=clean, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("folder", DATA)
def test_wheel_has_the_templates(wheel: Path, folder: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name.removeprefix("vmctl/_data/")
            for name in archive.namelist()
            if name.startswith(f"vmctl/_data/{folder}/")
        }
    assert names == names_in(folder)
    assert names


def test_wheel_has_the_marker_of_types_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "vmctl/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)


def test_wheel_has_every_module_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "vmctl").rglob("*.py")}
    recipes = names_in("vmctl/imaging/build/recipes")
    data = {name for name in names if name.startswith("vmctl/_data/")}
    assert names - data == modules | recipes | {"vmctl/py.typed", "vmctl/imaging/catalogue.yaml"}
    assert "vmctl/imaging/build/recipes/debian/packages.txt" in recipes


def test_wheel_asks_for_what_the_project_needs(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    for requirement in project["dependencies"]:
        assert f"Requires-Dist: {requirement}\n" in text
        assert ">=" in requirement
    for requirement in project["optional-dependencies"]["cli"]:
        assert f"Requires-Dist: {requirement}; extra == 'cli'\n" in text
    assert f"Version: {vmctl.__version__}\n" in text


def test_installed_wheel_finds_its_templates(installed: Path, tmp_path: Path) -> None:
    folder, names = run(installed, "-c", LIST, cwd=tmp_path).splitlines()
    assert Path(folder).name == "_data"
    assert installed.parents[1] in Path(folder).parents
    assert set(names.split()) == names_in("domain_templates") | names_in("cloud-init")


def test_installed_wheel_renders_a_spec(installed: Path, tmp_path: Path) -> None:
    spec = tmp_path / "small.yaml"
    spec.write_text("name: small\nimage: /images/any.qcow2\ncloud_init: {hostname: small}\n")
    printed = run(installed, "-m", "vmctl.cli.main", "render", str(spec), cwd=tmp_path)
    assert "<name>small</name>" in printed


def test_editable_install_finds_the_folders_of_the_tree() -> None:
    folder = Templates().folders[-1]
    assert folder == ROOT
    for name in DATA:
        assert (folder / name).is_dir()


def test_wheel_of_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in (*DATA, "vmctl"):
        assert {name for name in names_in(folder) if "__pycache__" not in name} <= names
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
