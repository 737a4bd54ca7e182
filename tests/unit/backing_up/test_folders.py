"""What is in a folder of backups: read, judged, verified and pruned, without a host."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from vmctl.backing_up import manifest as manifests
from vmctl.backing_up.chains import DiskNow, MachineNow, chain_of, choose, find, problem_of
from vmctl.backing_up.manifest import next_id
from vmctl.backing_up.restoring import choose_machine, open_chain
from vmctl.backing_up.target import Damaged, Target
from vmctl.backups import Backups, Retention
from vmctl.errors import (
    ConflictError,
    ImageError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    UsageError,
    VmctlError,
)

from .folder import START, UUID, Folder, qcow2

OTHER = "fedcba98-7654-3210-fedc-ba9876543210"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "all")


def now(folder: Folder, **changes: Any) -> MachineNow:
    disk = DiskNow(target="vda", format="qcow2", sources=("/pool/vda.qcow2",))
    checkpoints = tuple(known.manifest.checkpoint for known in folder.made[-1:])
    fields = {"disks": (disk,), "checkpoints": checkpoints, "internal_snapshots": False}
    return MachineNow(**{**fields, **changes})


def why(folder: Folder, machine: MachineNow, *, full: bool = False) -> str:
    prefix = f"vmctl.{folder.target.id}."
    choice = choose(machine, folder.machine.backups(), full=full, prefix=prefix)
    assert (choice.parent is None) == bool(choice.why)
    return choice.why


# -- what the next one goes on from -----------------------------------------------------------


def test_the_first_is_full_and_the_next_is_not(folder: Folder) -> None:
    assert why(folder, now(folder)) == "it is the first one of this machine in this folder"
    folder.add()
    assert why(folder, now(folder)) == ""
    assert why(folder, now(folder), full=True) == "it was asked for"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"disks": (DiskNow(target="vda", format="raw", sources=("/pool/vda.qcow2",)),)},
            "the disk vda is raw, and only a qcow2 one keeps track",
        ),
        ({"internal_snapshots": True}, "snapshots lie in its disks"),
        ({"checkpoints": ()}, "the machine has forgotten what was changed"),
        (
            {"disks": (DiskNow(target="vda", format="qcow2", sources=("/pool/other",)),)},
            "the disk vda is another one",
        ),
        (
            {
                "disks": (
                    DiskNow(target="vda", format="qcow2", sources=("/pool/vda.qcow2",)),
                    DiskNow(target="vdb", format="qcow2", sources=("/pool/vdb.qcow2",)),
                )
            },
            "the machine has other disks",
        ),
    ],
)
def test_why_it_is_full(folder: Folder, changes: dict[str, Any], said: str) -> None:
    folder.add()
    assert said in why(folder, now(folder, **changes))


def test_a_new_layer_on_top_keeps_the_chain(folder: Folder) -> None:
    folder.add()
    sources = ("/pool/overlay.qcow2", "/pool/vda.qcow2")
    disk = DiskNow(target="vda", format="qcow2", sources=sources)
    assert why(folder, now(folder, disks=(disk,))) == ""


def test_on_a_damaged_one_nothing_goes_on(folder: Folder) -> None:
    first = folder.add()
    (first.folder / "disk-vda.qcow2").write_bytes(b"short")
    assert why(folder, now(folder)) == "the one before it is damaged"
    (first.folder / manifests.NAME).write_bytes(b"{")
    assert why(folder, now(folder)) == "the one before it is damaged"


def test_where_the_disks_kept_no_track_the_next_is_full(folder: Folder) -> None:
    folder.add(checkpoint="")
    assert "kept no track" in why(folder, now(folder))


def test_a_chain_has_an_end(folder: Folder) -> None:
    for _ in range(100):
        folder.add()
    assert why(folder, now(folder)) == "the chain before it has 100 links"


def test_ids_sort_even_if_the_clock_is_set_back() -> None:
    first = next_id(START)
    assert next_id(START, first) > first
    assert next_id(START.replace(year=2020), first) > first


# -- manifests --------------------------------------------------------------------------------


def rewritten(known: Any, change: Callable[[dict[str, Any]], object]) -> None:
    """Write a manifest anew whose own digest is right, whatever else is not."""
    path = known.folder / manifests.NAME
    document = json.loads(path.read_text())
    change(document["manifest"])
    document["sha256"] = manifests._digest(document["manifest"])
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"vmctl_backup": "1"}',
        '{"vmctl_backup": true}',
        "\xff",
    ],
    ids=range(8),
)
def test_garbage_is_one_error(folder: Folder, text: str) -> None:
    known = folder.add()
    (known.folder / manifests.NAME).write_text(text, encoding="latin-1")
    (entry,) = folder.machine.backups()
    assert isinstance(entry, Damaged)
    assert isinstance(entry.error, ImageError)
    with pytest.raises(ImageError, match="is damaged"):
        open_chain(folder.target.path, None, known.id)
    (listed,) = Backups(folder.target.path).list()
    assert "is damaged" in listed.problem


def test_a_manifest_that_was_changed_is_none(folder: Folder) -> None:
    known = folder.add()
    path = known.folder / manifests.NAME
    path.write_text(path.read_text().replace('"web"', '"wob"', 1))
    (entry,) = folder.machine.backups()
    assert isinstance(entry, Damaged)
    assert "its digest differs" in entry.error.details


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["files"][0].update(target="../../etc/x"),
        lambda it: it["files"][0].update(target=""),
        lambda it: it["files"][0].update(role="../x"),
        lambda it: it["files"][0].update(size=-1),
        lambda it: it["files"][0].update(sha256="x"),
        lambda it: it["files"].append(it["files"][0]),
        lambda it: it.update(uuid="../.."),
        lambda it: it.update(id="20260304T120000000001Z"),
        lambda it: it.update(parent={"id": "../x", "sha256": "0" * 64}),
        lambda it: it.update(machine="a\nb"),
        lambda it: it.update(surprise=1),
        lambda it: it.pop("spec"),
        lambda it: it.update(spec=[]),
    ],
)
def test_a_manifest_that_lies_is_refused(
    folder: Folder, change: Callable[[dict[str, Any]], object]
) -> None:
    rewritten(folder.add(), change)
    (entry,) = folder.machine.backups()
    assert isinstance(entry, Damaged)


def test_one_of_a_newer_version_says_so(folder: Folder) -> None:
    known = folder.add()
    path = known.folder / manifests.NAME
    path.write_text(path.read_text().replace('"vmctl_backup": 1', '"vmctl_backup": 2'))
    with pytest.raises(UnsupportedError, match="is of version 2"):
        open_chain(folder.target.path, None, None)


def test_a_backup_of_another_machine_in_its_place_is_refused(
    folder: Folder, tmp_path: Path
) -> None:
    known = Folder(tmp_path / "b", uuid=OTHER).add()
    folder.machine.path.mkdir()
    known.folder.rename(folder.machine.path / known.id)
    (entry,) = folder.machine.backups()
    assert isinstance(entry, Damaged)
    assert "another machine's" in entry.error.brief


# -- chains -----------------------------------------------------------------------------------


def test_a_missing_link_is_found(folder: Folder) -> None:
    links = [folder.add() for _ in range(3)]
    assert chain_of(folder.machine.backups(), links[2]) == tuple(links)
    folder.machine.remove(links[1].folder)
    backups = folder.machine.backups()
    with pytest.raises(ImageError, match="which is not there"):
        chain_of(backups, links[2])
    assert [problem_of(backups, entry) != "" for entry in backups] == [False, True]
    with pytest.raises(ImageError, match="which is not there"):
        open_chain(folder.target.path, None, None)


def test_another_link_in_its_place_is_found(folder: Folder) -> None:
    first, second = folder.add(), folder.add()
    rewritten(first, lambda it: it.update(why="because"))
    with pytest.raises(ImageError, match="another one"):
        chain_of(folder.machine.backups(), second)


def test_a_circle_has_an_end(folder: Folder) -> None:
    first, second = folder.add(), folder.add()
    rewritten(first, lambda it: it.update(parent={"id": second.id, "sha256": second.sha256}))
    entries = folder.machine.backups()
    with pytest.raises(ImageError):
        chain_of(entries, find(entries, second.id))


# -- verifying --------------------------------------------------------------------------------


def test_a_flipped_bit_spoils_all_that_go_on_from_it(folder: Folder) -> None:
    links = [folder.add(), folder.add(), folder.add(), folder.add(full=True)]
    backups = Backups(folder.target.path)
    assert [entry.problem for entry in backups.verify()] == [""] * 4
    path = links[1].folder / "disk-vda.qcow2"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    problems = [entry.problem for entry in backups.verify()]
    assert [bool(problem) for problem in problems] == [False, True, True, False]
    assert "its digest differs" in problems[1]
    # Sizes alone don't tell.
    assert [entry.problem for entry in backups.list()] == [""] * 4
    assert [entry.id for entry in backups.verify(id=links[3].id)] == [links[3].id]


def test_a_spec_that_does_not_fit_the_disks_is_found(folder: Folder) -> None:
    folder.add()
    two = {"name": "web", "disks": [{"size": "1MiB"}, {"size": "1MiB"}]}
    folder.add(full=True, spec=two)
    folder.add(full=True, spec={})
    problems = [it.problem for it in Backups(folder.target.path).verify()]
    assert problems[0] == ""
    assert "does not fit its disks: it has vda, vdb, and they are vda" in problems[1]
    assert "does not fit its disks" in problems[2]


@pytest.mark.parametrize("what", ["gone", "short", "link", "folder"])
def test_a_file_that_is_not_there_whole(folder: Folder, tmp_path: Path, what: str) -> None:
    path = folder.add().folder / "disk-vda.qcow2"
    content = path.read_bytes()
    path.unlink()
    if what == "short":
        path.write_bytes(content[:-1])
    elif what == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "folder":
        path.mkdir()
    backups = Backups(folder.target.path)
    assert [bool(entry.problem) for entry in backups.verify()] == [True]
    assert [bool(entry.problem) for entry in backups.list()] == [True]


def test_a_disk_that_names_another_file_is_found(folder: Folder) -> None:
    def lie(it: dict[str, Any]) -> None:
        content = bytearray(qcow2(it["id"].encode()))
        content[79] = 0b100  # "external data file"
        (known.folder / "disk-vda.qcow2").write_bytes(content)
        import hashlib

        it["files"][0]["sha256"] = hashlib.sha256(content).hexdigest()

    known = folder.add()
    rewritten(known, lie)
    (verified,) = Backups(folder.target.path).verify()
    assert "keeps its data in a file" in verified.problem


# -- folders ----------------------------------------------------------------------------------


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("x")
    with pytest.raises(UsageError, match="something else"):
        Target.open_or_make(tmp_path)
    with pytest.raises(NotFoundError, match="no folder of backups"):
        Target.open(tmp_path)
    with pytest.raises(NotFoundError, match="no folder of backups"):
        Target.open(tmp_path / "letter")
    with pytest.raises(
        UsageError, match="'.*letter' is a file, and backups lie in a folder"
    ) as file:
        Target.open_or_make(tmp_path / "letter")
    assert "vmctl backup create NAME - >FILE" in file.value.hint
    with pytest.raises(ResourceError, match="Not a directory"):
        Target.open_or_make(tmp_path / "letter" / "below")
    for act in (Target.open, Target.open_or_make):
        with pytest.raises(UsageError, match="has a NUL in it"):
            act(tmp_path / "a\0b")
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


def test_a_fresh_file_system_and_a_second_use_are_fine(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    made = Target.open_or_make(tmp_path)
    assert Target.open_or_make(tmp_path) == made == Target.open(tmp_path)


def test_a_machines_part_is_no_folder_of_backups(folder: Folder) -> None:
    folder.add()
    with pytest.raises(UsageError, match="one machine's part"):
        Target.open_or_make(folder.machine.path)


@pytest.mark.parametrize("text", ["", "{}", '{"vmctl_backups": 1, "id": "x"}', "[]"])
def test_a_damaged_marker(tmp_path: Path, text: str) -> None:
    Target.open_or_make(tmp_path)
    (tmp_path / "vmctl-backups.json").write_text(text)
    with pytest.raises(ImageError, match="damaged"):
        Target.open_or_make(tmp_path)


def test_an_unfinished_backup_does_not_count_and_goes(folder: Folder) -> None:
    folder.add()
    left = folder.machine.path / "20260304T180000000000Z"
    left.mkdir()
    (left / "disk-vda.qcow2").write_bytes(b"half")
    assert len(folder.machine.backups()) == 1
    with folder.machine.locked():
        folder.machine.remove_unfinished()
    assert not left.exists()
    assert len(folder.machine.backups()) == 1


def test_one_that_fails_leaves_nothing(folder: Folder) -> None:
    def fail() -> None:
        with folder.machine.locked(), folder.machine.beginning("20260304T180000000000Z") as own:
            (own / "disk-vda.qcow2").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in folder.machine.path.iterdir()] == [".lock"]


def test_two_at_once_are_refused(folder: Folder) -> None:
    with (
        folder.machine.locked(),
        pytest.raises(ConflictError, match="somebody else"),
        folder.machine.locked(),
    ):
        pass


def test_which_machine_is_meant(folder: Folder, tmp_path: Path) -> None:
    first = folder.add()
    second = Folder(folder.target.path, uuid=OTHER, name="db").add(full=True)
    path = folder.target
    with pytest.raises(UsageError, match="several machines"):
        choose_machine(path, None, None)
    assert choose_machine(path, "db", None).uuid == OTHER
    assert choose_machine(path, UUID, None).uuid == UUID
    for name in ("nobody", "..", ""):
        with pytest.raises(VmctlError):
            choose_machine(path, name, None)
    assert first.id == second.id
    with pytest.raises(NotFoundError):
        choose_machine(path, None, "../x")


# -- pruning ----------------------------------------------------------------------------------


def kept(backups: Backups, rules: Retention, **options: Any) -> list[tuple[str, ...]]:
    return [entry.kept for entry in backups.prune(rules, **options)]


def test_prune_keeps_what_is_needed(folder: Folder) -> None:
    for full in (True, False, False, True, False):
        folder.add(full=full)
    backups = Backups(folder.target.path)
    rules = Retention(last=1)
    expected = [(), (), (), ("needed",), ("last",)]
    assert kept(backups, rules, dry_run=True) == expected
    assert len(backups.list()) == 5
    assert kept(backups, rules) == expected
    assert [entry.id for entry in backups.list()] == [known.id for known in folder.made[3:]]
    assert [entry.problem for entry in backups.verify()] == ["", ""]
    assert kept(backups, rules) == expected[3:]


def test_prune_never_removes_the_newest_nor_what_can_not_be_read(folder: Folder) -> None:
    damaged = folder.add(full=True)
    folder.add(full=True)
    folder.add(full=True)
    (damaged.folder / manifests.NAME).write_text("{")
    found = kept(Backups(folder.target.path), Retention(weekly=1))
    assert found == [("damaged",), (), ("weekly",)]


def test_prune_keeps_the_last_ones_after_a_clock_that_was_ahead(folder: Folder) -> None:
    for _ in range(3):
        folder.add(full=True, created=START + timedelta(days=2000))
    right = [folder.add(full=True).id for _ in range(3)]
    Backups(folder.target.path).prune(Retention(last=3))
    assert [it.id for it in Backups(folder.target.path).list()] == right


def test_prune_keeps_the_rules_for_each_machine(folder: Folder) -> None:
    folder.add()
    other = Folder(folder.target.path, uuid=OTHER, name="db")
    other.add(full=True)
    other.add(full=True)
    backups = Backups(folder.target.path)
    assert kept(backups, Retention(last=1), machine="db") == [(), ("last",)]
    assert kept(backups, Retention(last=1)) == [("last",), ("last",)]
