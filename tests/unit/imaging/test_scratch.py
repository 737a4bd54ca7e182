"""Room for disks on their way: private, and removed whatever becomes of who used it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmctl.errors import ResourceError
from vmctl.imaging.scratch import folder_beside, refuse_without_room, scratch_folder


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
        "from vmctl.imaging.scratch import folder_beside, scratch_folder\n"
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


def test_a_folder_beside_a_target_goes_with_its_process(tmp_path: Path) -> None:
    target = tmp_path / "web[1].vmctl"
    with folder_beside(target) as folder:
        assert folder.parent == tmp_path
        with folder_beside(target) as second:
            assert folder.is_dir()
            assert second != folder
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_beside_a_target_goes_with_the_next_one(tmp_path: Path) -> None:
    with folder_beside(tmp_path / "web.vmctl") as folder:
        left, others = tmp_path / f"{folder.name[:-11]}x.vmctl-part", tmp_path / ".web.vmctl.mine"
        left.mkdir()
        (left / "part").write_bytes(b"half")
        others.mkdir()
        link = tmp_path / ".web.vmctl.link.vmctl-part"
        link.symlink_to(others)
    with folder_beside(tmp_path / "web.vmctl"):
        assert not left.exists()
        assert others.is_dir()
