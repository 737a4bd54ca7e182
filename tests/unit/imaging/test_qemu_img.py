"""qemu-img under limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmctl.errors import ImageError, ResourceError, UnsupportedError
from vmctl.imaging import qemu_img
from vmctl.imaging.conversion import as_qcow2
from vmctl.imaging.inspection import Image, inspect
from vmctl.progress import Phase, Progress

DATA = b"0123456789abcdef" * 65536


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "disk:1,x.raw"
    path.write_bytes(DATA)
    return inspect(path, format="raw")


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vdi", "vhdx", "vhd"])
def test_there_and_back(tmp_path: Path, raw: Image, kind: str) -> None:
    there = tmp_path / "there"
    said: list[Progress] = []
    qemu_img.convert(raw, there, kind, phase=Phase("x", "image", said.append))
    assert [report.fraction for report in said][-1] == 1.0
    qemu_img.convert(inspect(there, format=kind), tmp_path / "back", "raw")
    # A VHD's size is rounded up to whole cylinders.
    assert (tmp_path / "back").read_bytes()[: len(DATA)] == DATA
    assert {path.name for path in tmp_path.iterdir()} == {raw.path.name, "there", "back"}


@pytest.mark.parametrize("kind", ["qcow2", "vmdk"])
def test_what_a_header_names_is_never_opened(tmp_path: Path, raw: Image, kind: str) -> None:
    """Though nothing that was looked at would name a file, and nothing here looks at it again."""
    base, over = tmp_path / "base", tmp_path / "over"
    qemu_img.convert(raw, base, kind)
    create = ["qemu-img", "create", "-q", "-f", kind, "-b", str(base), "-F", kind, str(over)]
    subprocess.run(create, check=True)
    image = Image(
        path=over, format=kind, size=over.stat().st_size, virtual_size=len(DATA), digest=""
    )
    qemu_img.convert(image, tmp_path / "flat", "raw")
    assert (tmp_path / "flat").read_bytes() == bytes(len(DATA))


def test_compressed_is_smaller(tmp_path: Path, raw: Image) -> None:
    qemu_img.convert(raw, tmp_path / "small", "qcow2", compress=True)
    assert (tmp_path / "small").stat().st_size < len(DATA) / 2


def test_what_fails_leaves_nothing(tmp_path: Path, raw: Image) -> None:
    raw.path.write_bytes(b"no image any more")
    false = Image(path=raw.path, format="vpc", size=1, virtual_size=1, digest="")
    (tmp_path / "old").write_text("old")
    with pytest.raises(ImageError, match="can't convert .* from vpc to raw") as caught:
        qemu_img.convert(false, tmp_path / "old", "raw")
    assert "vpc" in caught.value.details
    assert (tmp_path / "old").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a small file system")
def test_a_full_disk(tmp_path: Path, raw: Image) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640k", "none", str(small)], check=True)
    try:
        with pytest.raises(ResourceError, match="there is no room for"):
            qemu_img.convert(raw, small / "x", "raw")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def fake_qemu_img(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "bin" / "qemu-img"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{program}")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_one_that_takes_all_memory_is_ended(
    tmp_path: Path, raw: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_qemu_img(tmp_path, "x = bytes(3 << 30)", monkeypatch)
    with pytest.raises(ImageError) as caught:
        qemu_img.convert(raw, tmp_path / "y", "qcow2")
    assert "MemoryError" in caught.value.details


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(600)"])
def test_one_that_takes_all_time_is_ended(
    tmp_path: Path, raw: Image, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    fake_qemu_img(tmp_path, program, monkeypatch)
    monkeypatch.setattr(qemu_img, "_BASE_SECONDS", 1)
    with pytest.raises(ImageError) as caught:
        qemu_img.convert(raw, tmp_path / "y", "qcow2")
    assert "it was ended" in caught.value.details


def test_without_qemu_img(tmp_path: Path, raw: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="there is no program"):
        qemu_img.convert(raw, tmp_path / "y", "qcow2")


def test_other_formats_become_qcow2_once(
    tmp_path: Path, raw: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = as_qcow2(raw)
    assert (made.format, made.virtual_size) == ("qcow2", len(DATA))
    assert as_qcow2(made) is made
    monkeypatch.setenv("PATH", str(tmp_path))
    assert as_qcow2(raw) == made


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vmdk", ""),
        ("vmdk", "subformat=streamOptimized"),
        ("vdi", ""),
        ("vdi", "static=on"),
        ("vhdx", ""),
        ("vpc", ""),
        ("vpc", "subformat=fixed"),
    ],
)
def test_an_image_of_another_format_that_was_cut_off(
    tmp_path: Path, raw: Image, kind: str, options: str
) -> None:
    whole = tmp_path / f"whole.{kind}"
    qemu_img.convert(raw, whole, kind, options=options)
    assert as_qcow2(inspect(whole)).format == "qcow2"
    part = tmp_path / f"part.{kind}"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ImageError):
        as_qcow2(inspect(part, format=kind))


def test_a_qcow2_image_that_was_cut_off(tmp_path: Path, raw: Image) -> None:
    whole = tmp_path / "whole.qcow2"
    qemu_img.convert(raw, whole, "qcow2")
    assert as_qcow2(inspect(whole)).path == whole
    for left in (whole.stat().st_size // 2, 300_000):
        part = tmp_path / f"part-{left}"
        part.write_bytes(whole.read_bytes()[:left])
        with pytest.raises(ImageError, match="was cut off, or damaged"):
            as_qcow2(inspect(part))
