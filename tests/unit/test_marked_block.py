"""A block of vmctl's in somebody else's file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from vmctl.errors import ConflictError, UsageError, VmctlError
from vmctl.marked_block import write_block


def test_a_block_is_added_replaced_and_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("127.0.0.1 localhost")
    file.chmod(0o640)
    assert write_block(file, "192.0.2.1\ta\n", label="x")
    assert file.read_text() == "127.0.0.1 localhost\n# BEGIN x\n192.0.2.1\ta\n# END x\n"
    assert not write_block(file, "192.0.2.1\ta\n", label="x")
    assert write_block(file, "192.0.2.9\tz\n", label="x y")
    with file.open("a") as more:
        more.write("# last\n")
    assert write_block(file, "192.0.2.2\tb\n", label="x")
    assert file.read_text() == (
        "127.0.0.1 localhost\n# BEGIN x\n192.0.2.2\tb\n# END x\n"
        "# BEGIN x y\n192.0.2.9\tz\n# END x y\n# last\n"
    )
    assert write_block(file, "", label="x y")
    assert write_block(file, "", label="x")
    assert file.read_text() == "127.0.0.1 localhost\n# last\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_new_file_is_for_its_owner_and_a_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    assert write_block(link, "a\n", label="x")
    assert link.is_symlink()
    assert real.read_text() == "# BEGIN x\na\n# END x\n"
    assert real.stat().st_mode & 0o777 == 0o600
    assert not write_block(tmp_path / "none", "", label="x")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["# BEGIN x\na\n", "# END x\n", "# END x\n# BEGIN x\n"])
def test_half_a_block_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(ConflictError, match="don't belong together"):
        write_block(file, "b\n", label="x")
    assert file.read_text() == text


def test_what_cant_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't label"):
        write_block(tmp_path / "a", "b\n", label="x\ny")
    with pytest.raises(VmctlError, match="can't be written: No such file"):
        write_block(tmp_path / "none" / "a", "b\n", label="x")
    file = tmp_path / "binary"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no text"):
        write_block(file, "b\n", label="x")


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    labels = [f"l{number}" for number in range(8)]
    threads = [
        threading.Thread(target=write_block, args=(file, f"{label}\n"), kwargs={"label": label})
        for label in labels
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = file.read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == set(labels)
    assert os.listdir(tmp_path) == ["hosts"]  # noqa: PTH208 - the names are asked for
