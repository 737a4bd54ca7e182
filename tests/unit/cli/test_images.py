"""`vmctl image list --remote`, which needs no host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Vmctl

A = "a" * 64


@pytest.fixture
def own_entry(tmp_path: Path) -> None:
    """An entry of the user's, beside the built-in ones."""
    path = tmp_path / "config" / "vmctl" / "images.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "images: [{name: till, url: 'https://images.example.org/till.qcow2', "
        f"sha256: '{A}', user: shop, os: debian12, description: The tills}}]"
    )


@pytest.mark.usefixtures("own_entry")
def test_what_can_be_pulled(vmctl: Vmctl) -> None:
    done = vmctl("image", "list", "--remote")
    assert done.exit_code == 0, done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == [
        "NAME", "ARCH", "ALSO", "USER", "FIRMWARE", "OS", "DESCRIPTION"
    ]  # fmt: skip
    rows = [line.split() for line in lines]
    (till,) = [row for row in rows if row[0] == "till"]
    assert till == ["till", "x86_64", "-", "shop", "bios", "debian12", "The", "tills"]
    debian = {row[1]: row for row in rows if row[0] == "debian-12"}
    assert {arch: row[-6] for arch, row in debian.items()} == {
        "x86_64": "debian",
        "aarch64": "debian",
    }
    assert {arch: row[-5] for arch, row in debian.items()} == {"x86_64": "bios", "aarch64": "uefi"}


@pytest.mark.usefixtures("own_entry")
def test_as_data_it_is_what_a_catalogue_file_says(vmctl: Vmctl) -> None:
    found = json.loads(vmctl("-f", "json", "image", "list", "--remote", "--arch", "amd64").stdout)
    by_name = {entry["name"]: entry for entry in found}
    assert {entry["arch"] for entry in found} == {"x86_64"}
    assert by_name["till"] == {
        "name": "till", "arch": "x86_64", "url": "https://images.example.org/till.qcow2",
        "description": "The tills", "aliases": [], "sha256": A, "unverified": False,
        "user": "shop", "firmware": "bios", "os": "debian12",
    }  # fmt: skip
    assert by_name["debian-13"]["checksum"]["kind"] == "sha512"
    assert "debian" in by_name["debian-13"]["aliases"]
