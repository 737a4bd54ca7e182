"""Copying out of a guest that lies: nothing is written but below the target."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import paramiko
import pytest

from vmctl.errors import ConflictError, GuestError, NotFoundError, UsageError
from vmctl.guest import either_way
from vmctl.guest.agent import Agent
from vmctl.guest.copying import receive, send
from vmctl.guest.link import Link
from vmctl.guest.local_files import Folder, scan
from vmctl.guest.sftp import Facts, Remote
from vmctl.progress import Phase

_FILE = stat.S_IFREG | 0o6755
_FOLDER = stat.S_IFDIR | 0o755
_LINK = stat.S_IFLNK | 0o777


class _Liar(Remote):
    """A guest with a tree of its own making: path to (mode, content)."""

    def __init__(self, listings: dict[str, list[tuple[str, int]]], links: dict[str, str]) -> None:
        client: Any = SimpleNamespace(
            listdir_attr=lambda path: [self._entry(*entry) for entry in listings[path]],
        )
        super().__init__(client, SimpleNamespace(closed=False), "liar")  # type: ignore[arg-type]
        self._links = links

    @staticmethod
    def _entry(name: str, mode: int) -> paramiko.SFTPAttributes:
        found = paramiko.SFTPAttributes()
        found.filename, found.st_mode, found.st_size, found.st_mtime = name, mode, 4, 0
        return found

    def stat(self, path: str, *, follow: bool = True) -> Facts:
        return Facts(mode=_FOLDER, size=0, mtime=0)

    def link_target(self, path: str) -> str:
        return self._links[path]

    def pieces(self, path: str) -> Any:
        yield b"evil"


def fetch(liar: _Liar, target: Path) -> None:
    receive(liar, "top", target, recursive=True, phase=Phase("liar", "copy", None))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", "a\0b"])
def test_a_name_that_can_not_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(GuestError) as caught:
        fetch(_Liar({"top": [(name, _FILE)]}, {}), tmp_path / "target")
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    listing = {"top": [("a", _LINK), ("a", _FOLDER)], "top/a": [("x", _FILE)]}
    with pytest.raises(GuestError):
        fetch(_Liar(listing, {"top/a": str(tmp_path)}), tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_is_there_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    listing = {"top": [("a", _FOLDER)], "top/a": [("x", _FILE)]}
    fetch(_Liar({"top": [("a", _LINK)]}, {"top/a": str(outside)}), target)
    assert (target / "top" / "a").readlink() == outside
    with pytest.raises(ConflictError):
        fetch(_Liar(listing, {}), target)
    assert list(outside.iterdir()) == []


def test_a_file_takes_the_place_of_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    target = tmp_path / "target"
    target.mkdir()
    fetch(_Liar({"top": [("a", _LINK)]}, {"top/a": str(victim)}), target)
    fetch(_Liar({"top": [("a", _FILE)]}, {}), target)
    assert victim.read_text() == "mine"
    assert (target / "top" / "a").read_text() == "evil"
    # No other user's rights come out of a guest.
    assert stat.S_IMODE((target / "top" / "a").stat().st_mode) == 0o755


def test_nesting_without_an_end_is_refused(tmp_path: Path) -> None:
    class Endless(_Liar):
        def listing(self, path: str) -> list[tuple[str, Facts]]:
            return [("a", Facts(mode=_FOLDER, size=0, mtime=0))]

    with pytest.raises(GuestError, match="deeper"):
        fetch(Endless({}, {}), tmp_path / "target")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def pieces() -> Any:
        yield b"half"
        raise KeyboardInterrupt

    with Folder.at(tmp_path) as folder, pytest.raises(KeyboardInterrupt):
        folder.put("a", pieces(), mode=0o644, mtime=0)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - the names


def test_a_name_that_no_guest_could_be_told_is_refused_before_anything_is_copied(
    tmp_path: Path,
) -> None:
    (tmp_path / "good").touch()
    assert len(scan(tmp_path)) == 2
    (tmp_path / os.fsdecode(b"bad-\xff")).touch()
    with pytest.raises(UsageError, match=r"'bad-\\udcff' in .* is not UTF-8"):
        scan(tmp_path)


def test_what_can_not_be_copied_is_refused_before_any_way_is_tried(tmp_path: Path) -> None:
    def reach() -> Any:
        pytest.fail("the guest was asked")

    link = cast(Link, SimpleNamespace(channel=reach))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, error in (
        ("nothing", NotFoundError),
        ("folder", UsageError),
        ("pipe", UsageError),
    ):
        with pytest.raises(error, match=name):
            either_way.send(
                link,
                cast(Agent, None),
                tmp_path / name,
                "there",
                recursive=False,
                via=None,
                phase=Phase("web", "copy", None),
            )


def test_a_folder_that_is_missing_in_the_guest_is_the_one_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    bare = cast(Remote, SimpleNamespace(machine="web", stat=lambda _path: None))
    phase = Phase("web", "copy", None)
    with pytest.raises(NotFoundError) as caught:
        send(bare, tmp_path / "file", "/no/x", recursive=False, phase=phase)
    assert caught.value.brief == "there is no folder /no in 'web'"
    assert "mkdir -p /no`" in caught.value.hint
