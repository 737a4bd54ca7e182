"""Room for disks on their way: private, and removed whatever becomes of who used it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmctl.errors import ResourceError
from vmctl.imaging.scratch import refuse_without_room, scratch_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"vmctl-{os.getuid()}"


def test_it_is_private_and_gone_afterwards(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert temporary.stat().st_mode & 0o077 == 0
        assert list(folder.iterdir()) == []
        (folder / "file").write_text("x")
        # Somebody else's beginning leaves it alone.
        with scratch_folder() as other:
            assert (folder / "file").exists()
            assert other != folder
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(temporary: Path) -> None:
    program = (
        "import os, signal\n"
        "from vmctl.imaging.scratch import scratch_folder\n"
        "with scratch_folder() as folder:\n"
        "    (folder / 'disk').write_text('secret')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(temporary.iterdir())) == 1
    with scratch_folder():
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("how", ["link", "open to others", "file"])
def test_a_folder_that_others_could_use_is_refused(temporary: Path, how: str) -> None:
    if how == "link":
        (temporary.parent / "elsewhere").mkdir()
        temporary.symlink_to("elsewhere")
    elif how == "file":
        temporary.write_text("")
    else:
        temporary.mkdir()
        temporary.chmod(0o777)
    with pytest.raises(ResourceError, match="no room"), scratch_folder():
        pass


def test_want_of_room_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no room for the disk"):
        refuse_without_room(tmp_path, 1 << 60, "the disk")
    refuse_without_room(tmp_path, 1, "the disk")
