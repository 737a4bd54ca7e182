"""Building images when things go wrong: killed midway, and no space. Debian's packages are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmctl.errors import ImageError
from vmctl.imaging.build import build
from vmctl.imaging.build.cache import Blueprint, get_or_build
from vmctl.progress import Phase

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="files in an image belong to root"),
]

# A small tree that mmdebstrap really makes, up to a hook, at which it waits for a word.
SMALL = """
import os
import sys
from pathlib import Path
from vmctl.imaging.build.bootstrap import bootstrap
from vmctl.imaging.build.cache import Blueprint, get_or_build
from vmctl.imaging.build.sources import from_host
from vmctl.progress import Phase

def build(work, image):
    os.mkfifo(work / "go")
    print(work, flush=True)
    bootstrap(work / "root", "bookworm", variant="essential", packages=["base-files"],
              sources=from_host("bookworm"), options=[f"--essential-hook=cat {work}/go"])

get_or_build(Blueprint(name="small", content="one"), build, cache=Path(sys.argv[1]),
             phase=Phase("small", "build", None))
"""
# A file system of its own, in a mount namespace of its own, that is too small for any Debian.
FULL = """
mount -t tmpfs -o size=48m none "$1"
"$2" -c '
import sys
from pathlib import Path
from vmctl.errors import ResourceError
from vmctl.imaging.build import build
try:
    build("debian-12", cache=Path(sys.argv[1]))
except ResourceError as error:
    print(error.brief)
' "$1"
ls -A "$1"
"""


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def mounts_below(cache: Path) -> list[str]:
    found = []
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            lines = table.read_text().splitlines()
        except OSError:
            continue
        found += [line for line in lines if str(cache) in line]
    return found


def test_what_a_killed_build_left_goes_with_the_next_and_nothing_is_mounted(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SMALL, tmp_path], stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        work = Path(builder.stdout.readline().strip())
        # mmdebstrap has come to its hook, and is killed with everything that runs in it.
        with (work / "go").open("w"):
            builder.send_signal(signal.SIGKILL)
            builder.wait()
    assert left(tmp_path) == [work.name]
    image = get_or_build(
        Blueprint(name="small", content="one"),
        lambda _work, made: made.touch(),
        cache=tmp_path,
        phase=Phase("small", "build", None),
    )
    assert left(tmp_path) == [image.name]
    assert mounts_below(tmp_path) == []


def test_a_full_file_system_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", FULL, "sh", tmp_path, sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    brief, *names = done.stdout.splitlines()
    assert brief.startswith("there is no space left")
    assert [name for name in names if not name.endswith(".lock")] == []


def test_a_mirror_that_is_not_there_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="mmdebstrap failed with status") as caught:
        build("debian-13", mirror=f"file://{tmp_path}/mirror", cache=tmp_path)
    assert "has trixie" in caught.value.hint
    assert left(tmp_path) == []
