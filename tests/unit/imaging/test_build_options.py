"""What may be chosen about an image, and what is refused in one sentence."""

from __future__ import annotations

import platform

import pytest

from vmctl.errors import UnsupportedError, UsageError
from vmctl.imaging.build import build, built_path
from vmctl.imaging.build.options import Options, check_architecture


@pytest.mark.parametrize(
    "name", ["", "Nginx", "a b", "a,b", "-x", "../x", "nginx=1", "a\nb", "$(id)"]
)
@pytest.mark.parametrize("option", ["packages", "offline"])
def test_what_is_no_package_is_refused(option: str, name: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a Debian package") as caught:
        Options(**{option: (name,)})  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize("name", ["nginx", "g++", "libstdc++6", "python3.11-venv", "0ad"])
def test_packages_are_taken_as_debian_writes_them(name: str) -> None:
    assert Options(packages=(name,)).packages == (name,)


@pytest.mark.parametrize(
    "mirror",
    [
        *("debian.example", "ftp://mirror.example/debian", "http://a/debian b", "", "deb"),
        *("http://a/debian\ndeb http://b/ x main", "deb http://a/ x main\ndeb http://b/ x main"),
        *("deb-src http://mirror.example/debian trixie main", "--setup-hook=id"),
    ],
)
def test_what_is_no_mirror_is_refused(mirror: str) -> None:
    with pytest.raises(UsageError, match="neither the URL of a mirror"):
        Options(mirror=(mirror,))


@pytest.mark.parametrize(
    "mirror",
    [
        *(
            "http://mirror.example/debian",
            "https://mirror.example:8080/debian-security/",
            "file:///srv/debian",
        ),
        "deb http://mirror.example/debian trixie main contrib",
        "deb [trusted=yes arch=amd64] file:/srv/own ./",
    ],
)
def test_mirrors_are_urls_or_lines(mirror: str) -> None:
    assert Options(mirror=(mirror,)).mirror == (mirror,)


@pytest.mark.parametrize(
    "mirror",
    [
        "http://ada:secret@mirror.example/debian",
        "deb https://ada:secret@mirror.example/debian trixie main",
    ],
)
def test_a_password_is_refused_and_not_repeated(mirror: str) -> None:
    with pytest.raises(UsageError) as caught:
        Options(mirror=(mirror,))
    assert "secret" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("size", [-1, 0, 1 << 20, (4 << 30) + 512, 1 << 50])
def test_sizes_that_make_no_sense_are_refused(size: int) -> None:
    with pytest.raises(UsageError):
        build("debian-12", size=size)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="an image for riscv64 can't be built"):
        build("debian-12", arch="riscv64")


def test_this_architecture_needs_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(UnsupportedError, match="on x86_64 only, and this machine is aarch64"):
        check_architecture(None)


def test_images_with_other_options_are_kept_beside_each_other() -> None:
    paths = {
        built_path("debian-12"),
        built_path("debian-12", packages=["tmux"]),
        built_path("debian-12", offline=["tmux"]),
        built_path("debian-12", size=4 << 30),
        built_path("debian-12", mirror="http://mirror.example/debian"),
        built_path("debian-13"),
    }
    assert len(paths) == 6
    first, second = (
        built_path("debian-12", packages=names) for names in (["a1", "b1"], ["b1", "a1"])
    )
    assert first == second
