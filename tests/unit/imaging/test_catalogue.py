"""The catalogue: the one that ships, and what users put on top."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.errors import NotFoundError, SpecError
from vmctl.imaging.catalogue import Catalogue, catalogue_files

A = "a" * 64
NAMES = (
    "debian-11 debian-12 debian-13 ubuntu-22.04 ubuntu-24.04 fedora centos-stream almalinux "
    "almalinux-8 rockylinux rockylinux-9 opensuse-leap alpine arch freebsd"
)


@pytest.fixture
def built_in() -> Catalogue:
    return Catalogue([])


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", NAMES.split())
def test_known_by_name(built_in: Catalogue, name: str) -> None:
    entry = built_in.find(name)
    assert entry.arch == "x86_64"
    assert entry.user
    assert entry.os
    assert entry.description


def test_every_built_in_image_comes_over_https_and_is_verified(built_in: Catalogue) -> None:
    for entry in built_in.entries():
        assert entry.url.startswith("https://")
        assert entry.checksum is not None
        assert entry.checksum.url.startswith("https://")
        assert not entry.unverified
        assert entry.arch == "x86_64" or entry.firmware == "uefi"


def test_an_alias_is_the_newest(built_in: Catalogue) -> None:
    assert built_in.find("debian").name == "debian-13"
    assert built_in.find("debian-bookworm", "arm64").url.endswith("arm64.qcow2")
    assert built_in.find("debian", "amd64") == built_in.find("debian-13", "x86_64")
    for arch in ("x86_64", "aarch64"):
        aliases = [alias for entry in built_in.entries(arch) for alias in entry.aliases]
        assert len(set(aliases)) == len(aliases)


def test_names_that_are_close(built_in: Catalogue) -> None:
    with pytest.raises(NotFoundError) as caught:
        built_in.find("debain-12")
    assert "debian-12" in caught.value.hint
    with pytest.raises(NotFoundError) as caught:
        built_in.find("arch", "aarch64")
    assert caught.value.hint == "it is there for x86_64"
    with pytest.raises(NotFoundError, match="no image 'zzz'"):
        built_in.find("zzz")


def test_own_files_come_on_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    entry = "{name: debian-12, url: https://mirror.example/d.qcow2, sha256: " + A + "}"
    first = write(tmp_path / "vmctl/images.yaml", f"images: [{entry}]\n")
    text = f"images: [{{name: ours, aliases: [debian], url: http://h/a, sha256: {A}}}]\n"
    second = write(tmp_path / "vmctl/images.d/team.yaml", text)
    assert catalogue_files()[-2:] == (first, second)
    catalogue = Catalogue()
    assert catalogue.find("debian-12").url == "https://mirror.example/d.qcow2"
    assert catalogue.find("debian-12", "aarch64").url.startswith("https://cloud.debian.org/")
    assert catalogue.find("debian").name == "ours"
    source = catalogue.find("debian-12").source
    assert source.checksum is not None
    assert source.checksum.value == A


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a mapping"),
        ("images: {", "is not valid YAML"),
        ("images: [{url: 'https://h/a', unverified: true}]", "images[0].name: is missing"),
        ("images: [{name: A B, url: 'https://h/a', unverified: true}]", "images[0].name: A B does"),
        ("images: [{name: a, url: 'file:///etc/passwd', unverified: true}]", "images[0].url: is"),
        ("images: [{name: a, url: 'https://h/a'}]", "say unverified: true"),
        ("images: [{name: a, url: 'https://h/a', md5: x}]", "images[0].md5: is not a field"),
        (f"images: [{{name: a, url: 'http://h/a', sha256: {A}, unverified: true}}]", "more than"),
        ("images: [{name: a, url: 'https://h/a', sha256: abc}]", "images[0].sha256: abc does"),
        ("images: [{name: a, arch: z80, url: 'https://h/a', unverified: true}]", "images[0].arch"),
        (
            "images: [{name: a, url: 'https://h/a', checksum: {url: 'http://h/b', kind: sha256}}]",
            "images[0].checksum.url: is fetched over http",
        ),
        ("images: [" + "{name: a, url: 'https://h/a', unverified: true}," * 2 + "]", "twice"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "images.yaml", text)
    with pytest.raises(SpecError) as caught:
        Catalogue([path])
    assert str(path) in caught.value.brief
    if said != "not a mapping":
        assert said in str(caught.value)
    assert "own-images.md" in caught.value.hint


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read"):
        Catalogue([tmp_path / "nothing.yaml"])
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not a text file"):
        Catalogue([binary])
