"""The client's caches, emptied while others are at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmctl.hypervisor.events import Signal
from vmctl.imaging import qemu_img
from vmctl.imaging.build.cache import default_cache
from vmctl.imaging.conversion import as_qcow2
from vmctl.imaging.digests import cache_folder
from vmctl.imaging.download import Source, fetch
from vmctl.imaging.download_cache import DownloadCache
from vmctl.imaging.inspection import inspect
from vmctl.imaging.pruning import CachedFile, prune_cache
from vmctl.imaging.scratch import scratch_folder, scratch_root, working_folder

from ...http_server import serving


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VMCTL_IMAGE_CACHE", str(tmp_path / "built"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def _kinds(found: list[CachedFile]) -> list[str]:
    return sorted(entry.kind for entry in found)


def _held(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a program that holds something, says so, and then waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def test_there_is_nothing() -> None:
    assert prune_cache() == []
    assert not cache_folder().exists()


def test_what_was_fetched_and_converted_goes(tmp_path: Path) -> None:
    with serving() as server:
        server.page("/image", b"x" * 100_000)
        source = Source(url=server.url("/image"), unverified=True)
        path = fetch(source).path
        raw = tmp_path / "disk.raw"
        raw.write_bytes(b"y" * 65536)
        converted = as_qcow2(inspect(raw, format="raw"))
        unpacked = cache_folder() / "unpacked"
        unpacked.mkdir()
        (unpacked / "sha256-1").write_bytes(b"z" * 8192)
        built = default_cache()
        built.mkdir()
        (built / "debian-12-0123456789abcdef.qcow2").write_bytes(b"built")
        wanted = prune_cache(dry_run=True)
        assert _kinds(wanted) == ["converted", "download", "unpacked"]
        assert all(entry.size > 0 for entry in wanted)
        assert path.exists()
        assert prune_cache() == wanted
        assert not path.exists()
        assert not converted.path.exists()
        assert prune_cache() == []
        # What was built is no copy of anything; what was fetched can be fetched again.
        assert len(list(built.iterdir())) == 1
        assert fetch(source).path.read_bytes() == b"x" * 100_000
        assert len(server.asked("/image")) == 2


_CONVERTING = """
import sys
from pathlib import Path
from vmctl.imaging import qemu_img
from vmctl.imaging.inspection import inspect
def run_limited(command, **options):
    Path(command[-1]).write_bytes(b"half")
    print("there", flush=True)
    sys.stdin.readline()
qemu_img.run_limited = run_limited
qemu_img.convert(inspect(sys.argv[1], format="raw"), Path(sys.argv[2]), "qcow2")
"""


def test_a_killed_conversion_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"y" * 65536)
    folder = tmp_path / "out"
    folder.mkdir()
    # It begins as theirs do, and is nobody's of vmctl's.
    (folder / f"{qemu_img.CONVERTING}file").write_text("a file")

    def at_work() -> int:
        return sum(path.is_dir() for path in folder.iterdir())

    with _held(_CONVERTING, str(raw), str(folder / "a.qcow2")) as first:
        # One that lives is left alone, however old it is.
        (work,) = (path for path in folder.iterdir() if path.is_dir())
        os.utime(work, (0, 0))
        qemu_img.convert(inspect(raw, format="raw"), folder / "b.qcow2", "qcow2")
        assert at_work() == 1
        os.kill(first.pid, signal.SIGKILL)
    assert at_work() == 1
    qemu_img.convert(inspect(raw, format="raw"), folder / "b.qcow2", "qcow2")
    assert {path.name for path in folder.iterdir()} == {
        "b.qcow2",
        f"{qemu_img.CONVERTING}file",
    }


_BUILDING = """
import sys
from pathlib import Path
from vmctl.imaging.build.cache import Blueprint, get_or_build
from vmctl.progress import Phase
def build(work, image):
    (work / "tree").write_bytes(b"x" * 8192)
    print("there", flush=True)
    sys.stdin.readline()
get_or_build(Blueprint(name="own", content=""), build, phase=Phase("x", "build", None))
"""


def test_work_in_progress_stays_until_its_process_is_gone(tmp_path: Path) -> None:
    converted = cache_folder() / "converted"
    converted.mkdir(parents=True)
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"y" * 65536)
    with (
        _held(_CONVERTING, str(raw), str(converted / "a.qcow2")) as conversion,
        _held(_BUILDING) as building,
        scratch_folder() as scratch,
        working_folder(converted, qemu_img.CONVERTING),
    ):
        (scratch / "disk").write_bytes(b"x" * 8192)
        assert prune_cache() == []
        os.kill(conversion.pid, signal.SIGKILL)
        os.kill(building.pid, signal.SIGKILL)
        conversion.wait()
        building.wait()
        assert _kinds(prune_cache(dry_run=True)) == ["abandoned", "abandoned"]
        assert _kinds(prune_cache()) == ["abandoned", "abandoned"]
        assert len(list(converted.iterdir())) == 1
        assert (scratch / "disk").exists()
    assert list(scratch_root().iterdir()) == []
    assert [path.name for path in default_cache().iterdir()] == ["own.lock"]


def test_a_download_that_runs_stays(tmp_path: Path) -> None:
    with serving() as server:
        page = server.page("/image", b"x" * 400_000, stall=300_000)
        source = Source(url=server.url("/image"), unverified=True)
        code = (
            "import sys\nfrom vmctl.imaging.download import Source, fetch\n"
            "print('there', flush=True)\nfetch(Source(url=sys.argv[1], unverified=True))\n"
        )
        with _held(code, source.url) as client:
            slot = DownloadCache().slot(source.url)
            deadline = time.monotonic() + 30
            assert Signal().wait_for(lambda: slot.size() or None, deadline=deadline, recheck=0.02)
            assert prune_cache() == []
            os.kill(client.pid, signal.SIGKILL)
            client.wait()
            (left,) = prune_cache()
            assert left.kind == "abandoned"
            page.go_on.set()
        assert [path for path in (cache_folder() / "downloads").iterdir() if path.is_file()] == []
