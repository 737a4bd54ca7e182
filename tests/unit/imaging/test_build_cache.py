"""The cache of built images: built once, by one, and nothing left of a build that failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vmctl.errors import ImageError, PermissionDeniedError, ResourceError
from vmctl.imaging.build.cache import Blueprint, get_or_build, image_path
from vmctl.progress import Phase, Progress

PRINT = Blueprint(name="small", content="one")
PHASE = Phase("small", "build", None)
KILLED = """
import pathlib, sys
from vmctl.imaging.build.cache import Blueprint, get_or_build
from vmctl.progress import Phase

def build(work, image):
    (work / "half").write_text("made")
    print("building", flush=True)
    sys.stdin.read()

get_or_build(Blueprint(name="small", content="one"), build, cache=pathlib.Path(sys.argv[1]),
             phase=Phase("small", "build", None))
"""


def write(_work: Path, image: Path) -> None:
    image.write_text("image")


def never(_work: Path, _image: Path) -> None:
    raise AssertionError("it was there already")


def images(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_an_image_is_built_once_and_again_when_asked_for(tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    image = get_or_build(PRINT, write, cache=cache, phase=PHASE)
    assert image == image_path(PRINT, cache)
    assert image.read_text() == "image"
    assert image.stat().st_mode & 0o777 == 0o644
    assert get_or_build(PRINT, never, cache=cache, phase=PHASE) == image
    with pytest.raises(AssertionError):
        get_or_build(PRINT, never, cache=cache, phase=PHASE, rebuild=True)
    assert images(cache) == [image.name]


def test_the_image_of_an_older_recipe_goes_and_other_variants_stay(tmp_path: Path) -> None:
    get_or_build(PRINT, write, cache=tmp_path, phase=PHASE)
    variant = Blueprint(name="small", content="one", variant="0123abcd")
    get_or_build(variant, write, cache=tmp_path, phase=PHASE)
    newer = Blueprint(name="small", content="two")
    get_or_build(newer, write, cache=tmp_path, phase=PHASE)
    assert images(tmp_path) == sorted(
        [image_path(variant, tmp_path).name, image_path(newer, tmp_path).name]
    )


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(work: Path, image: Path) -> None:
        (work / "tree").mkdir()
        image.write_text("half")
        raise ImageError("it failed", hint="try again")

    with pytest.raises(ImageError, match="it failed"):
        get_or_build(PRINT, fail, cache=tmp_path, phase=PHASE)
    assert images(tmp_path) == []


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(work: Path, _image: Path) -> None:
        (work / "some").write_text("thing")
        Path("/dev/full").write_text("more than fits")

    with pytest.raises(ResourceError, match="there is no space left for an image") as caught:
        get_or_build(PRINT, fill, cache=tmp_path, phase=PHASE)
    assert "VMCTL_IMAGE_CACHE" in caught.value.hint
    assert images(tmp_path) == []


def test_a_folder_that_is_none_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="the image can't be built in"):
        get_or_build(PRINT, never, cache=tmp_path / "file", phase=PHASE)


def test_a_folder_that_refuses_is_one_error() -> None:
    with pytest.raises((PermissionDeniedError, ImageError)):
        get_or_build(PRINT, never, cache=Path("/proc/vmctl"), phase=PHASE)


def test_what_a_killed_builder_left_goes_with_the_next(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "building\n"
        builder.send_signal(signal.SIGKILL)
    (left,) = images(tmp_path)
    assert (tmp_path / left / "half").exists()
    image = get_or_build(PRINT, write, cache=tmp_path, phase=PHASE)
    assert images(tmp_path) == [image.name]


def test_of_two_builders_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    built: list[str] = []
    begun, waited = threading.Event(), threading.Event()

    def build(_work: Path, image: Path) -> None:
        begun.set()
        assert waited.wait(30)
        built.append("first")
        image.write_text("image")

    def tell(report: Progress) -> None:
        if report.detail == "waiting for another build of this image":
            waited.set()

    first = threading.Thread(
        target=get_or_build, args=(PRINT, build), kwargs={"cache": tmp_path, "phase": PHASE}
    )
    first.start()
    assert begun.wait(30)
    image = get_or_build(PRINT, never, cache=tmp_path, phase=Phase("small", "build", tell))
    first.join()
    assert built == ["first"]
    assert image.read_text() == "image"


def test_nothing_that_is_mounted_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / ".small.build-x"
    (stale / "dev").mkdir(parents=True)
    (stale / "dev" / "null").write_text("the host's own")
    seen = Path.read_text

    def mounted(path: Path, *words: str, **more: str) -> str:
        if str(path) == "/proc/self/mountinfo":
            return f"1 2 0:1 / {stale}/dev rw - devtmpfs none rw\n"
        return seen(path, *words, **more)

    # A real mount would need root.
    monkeypatch.setattr(Path, "read_text", mounted)
    with pytest.raises(ImageError, match="is still mounted") as caught:
        get_or_build(PRINT, never, cache=tmp_path, phase=PHASE)
    assert caught.value.hint.startswith(f"umount --recursive {stale}/dev")
    assert os.listdir(stale / "dev") == ["null"]  # noqa: PTH208
