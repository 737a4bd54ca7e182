"""The recipes as data, and what decides which image they make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmctl.errors import NotFoundError
from vmctl.imaging.build import build, built_path, debian, default_cache, recipes
from vmctl.imaging.build.options import Options
from vmctl.imaging.build.releases import RELEASES
from vmctl.imaging.build.tools import PACKAGES
from vmctl.imaging.build.trees import digest_of, lines_of

_ROOT = Path(__file__).resolve().parents[3]
_RECIPES = Path(debian.__file__).parent / "recipes"


def test_recipes_are_the_releases() -> None:
    assert [recipe.name for recipe in recipes()] == ["debian-11", "debian-12", "debian-13"]
    assert recipes()[1].description == "Debian 12 (bookworm) with systemd and cloud-init"


def test_an_unknown_recipe_names_those_that_there_are() -> None:
    with pytest.raises(NotFoundError, match="there is no recipe for an image 'debian-3'") as caught:
        build("debian-3")
    assert "debian-11, debian-12, debian-13" in caught.value.hint


def test_every_folder_of_recipes_is_used() -> None:
    assert {path.name for path in _RECIPES.iterdir()} <= {"debian", *RELEASES}


def test_the_package_lists_of_the_scripts_have_what_a_build_needs() -> None:
    listed = set(lines_of(_ROOT / "scripts" / "guest_images" / "packages.txt"))
    # kmod is for the micro guest, which only the scripts build.
    assert listed == {*PACKAGES.values(), "kmod"}


def test_only_what_goes_into_an_image_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = RELEASES["debian-12"]
    before = debian.blueprint(release, Options())
    copy = tmp_path / "debian"
    for name in ("packages.txt", "units-on.txt", "units-off.txt"):
        copy.mkdir(exist_ok=True)
        (copy / name).write_text(f"# Another remark.\n\n{(_RECIPES / 'debian' / name).read_text()}")
    (copy / "root").symlink_to(_RECIPES / "debian" / "root")
    monkeypatch.setattr(debian, "_COMMON", copy)
    assert debian.blueprint(release, Options()) == before
    with (copy / "packages.txt").open("a") as file:
        file.write("tmux\n")
    assert debian.blueprint(release, Options()).content != before.content


def test_a_tree_s_digest_is_of_names_links_modes_and_content(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    digests = []

    def look() -> None:
        digests.append(digest_of([tree]))

    look()
    (tree / "a").write_text("b")
    look()
    (tree / "a").write_text("c")
    look()
    (tree / "a").chmod(0o755)
    look()
    (tree / "a").rename(tree / "d")
    look()
    (tree / "a").symlink_to("d")
    look()
    assert len(set(digests)) == len(digests)
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "x.pyc").write_text("")
    os.utime(tree / "d", (0, 0))
    look()
    assert digests[-1] == digests[-2]


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VMCTL_IMAGE_CACHE", str(tmp_path))
    assert built_path("debian-12").parent == default_cache() == tmp_path
    assert built_path("debian-12", cache=tmp_path / "own").parent == tmp_path / "own"
    monkeypatch.delenv("VMCTL_IMAGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "vmctl" / "guest-images"
