"""The commands for folders of backups, which need no host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.backing_up.folder import UUID, Folder

from .conftest import Vmctl


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "all")
    for full in (True, False, True):
        made.add(full=full)
    return made


def test_list(vmctl: Vmctl, folder: Folder) -> None:
    done = vmctl("backup", "list", str(folder.target.path))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["MACHINE", "ID", "CREATED", "KIND"]
    assert [line.split()[1] for line in lines[1:]] == [known.id for known in folder.made]
    # What goes on from the one above it stands a little to the right.
    assert lines[2].index("incremental") == lines[1].index("full") + 2
    done = vmctl("backup", "list", str(folder.target.path), UUID, "--format", "json")
    kinds = [entry["kind"] for entry in json.loads(done.stdout)]
    assert kinds == ["full", "incremental", "full"]


def test_verify_tells_by_its_status(vmctl: Vmctl, folder: Folder) -> None:
    place = str(folder.target.path)
    assert vmctl("backup", "verify", place).exit_code == 0
    path = folder.made[1].folder / "disk-vda.qcow2"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    done = vmctl("backup", "verify", place, "--format", "json")
    assert done.exit_code == 1
    assert [bool(entry["problem"]) for entry in json.loads(done.stdout)] == [False, True, False]
    assert "1 of 3 backups can't be restored" in done.stderr
    assert vmctl("backup", "verify", place, "--id", folder.made[0].id).exit_code == 0


def test_prune(vmctl: Vmctl, folder: Folder) -> None:
    place = str(folder.target.path)
    assert vmctl("backup", "prune", place).exit_code == 2
    done = vmctl("backup", "prune", place, "--keep-last", "1", "--dry-run")
    assert done.stdout.count("would be removed") == 2
    done = vmctl("backup", "prune", place, "--keep-last", "1", "--format", "json")
    assert [entry["kept"] for entry in json.loads(done.stdout)] == [[], [], ["last"]]
    assert len(folder.machine.backups()) == 1


def test_what_makes_no_sense(vmctl: Vmctl, folder: Folder, tmp_path: Path) -> None:
    place = str(folder.target.path)
    for words in (
        ("create", "web", place, "--quiesce", "--no-quiesce"),
        ("restore", place, "--in-place", "web", "--name", "other"),
        ("restore", "-", "--in-place", "web"),
    ):
        assert vmctl("backup", *words).exit_code == 2
    assert vmctl("backup", "list", str(tmp_path / "none")).exit_code == 3
    assert vmctl("backup", "list", place, "nobody").exit_code == 3
    assert vmctl("backup", "verify", "-", stdin=b"no bundle").exit_code == 1


def test_what_is_not_there_is_named(vmctl: Vmctl, folder: Folder, tmp_path: Path) -> None:
    place, known = str(folder.target.path), folder.made[0].id
    done = vmctl("backup", "list", place, UUID[:-1])
    assert f"there is no backup of '{UUID[:-1]}' in '{place}'" in done.stderr
    done = vmctl("backup", "verify", place, "--id", known[:-4])
    assert f"there is no backup '{known[:-4]}' in" in done.stderr
    assert known in done.stderr.splitlines()[-1]
    (tmp_path / "stream").write_bytes(b"")
    done = vmctl("backup", "verify", str(tmp_path / "stream"))
    assert done.exit_code == 3
    assert "`- <stream`" in done.stderr
    assert "--keep-last" in vmctl("backup", "prune", place).stderr


def test_a_problem_stands_where_it_is_seen(vmctl: Vmctl, folder: Folder) -> None:
    (folder.made[0].folder / "disk-vda.qcow2").unlink()
    lines = vmctl("backup", "list", str(folder.target.path)).stdout.splitlines()
    assert lines[0].split() == ["MACHINE", "ID", "CREATED", "KIND", "SIZE", "STATE", "PROBLEM"]
    assert "disk-vda.qcow2 is not there" in lines[1]
    assert len(lines[1]) < 170
    for each in folder.made[1:]:
        (each.folder / "disk-vda.qcow2").unlink()
    done = vmctl("backup", "verify", str(folder.target.path))
    assert "3 of 3 backups can't be restored" in done.stderr
    assert "the others" not in done.stderr
