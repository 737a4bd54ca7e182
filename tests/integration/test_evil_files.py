"""Packages and images that were made to deceive, at a real host: one error, and nothing is left."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner

import vmctl
from tests.evil_ovas import CONTENT, DISK, EVIL, GOOD, OVF, Entry, manifest, pack, regular
from tests.http_server import serving
from vmctl.cli.root import root

from .conftest import snapshot_of_host

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

# Of what came in whole, and is found to be another only when it is read.
LATE: dict[str, tuple[list[Entry], str]] = {
    "another disk": (
        [OVF, manifest(GOOD), regular("disk.vmdk", CONTENT[::-1])],
        "another 'disk.vmdk' than its manifest says",
    ),
    "a disk that is none": (
        [OVF, manifest(GOOD), DISK],
        "the disk 'disk.vmdk' in 'vm.ova' is not fit to be imported\nit is declared as vmdk",
    ),
}
# More than what of zeros goes unremarked (1 GiB), and far more than 250 times what was sent.
ZEROS = 64 << 20
BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.fixture
def untouched(
    host: vmctl.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Say whether the host, and the client outside of what the test made, are as before."""
    scratch, cache = tmp_path / "scratch", tmp_path / "cache"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    before = snapshot_of_host(host)

    def check() -> None:
        assert snapshot_of_host(host) == before
        assert [path for path in scratch.rglob("*") if path.is_file()] == []
        # What is remembered of a download has no image in it.
        large = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 4096]
        assert large == []
        assert {path.name for path in tmp_path.iterdir()} <= {"scratch", "cache", "in"}

    return check


@contextmanager
def refused(said: str) -> Iterator[None]:
    """Expect one error of one line, with the words, and with a hint."""
    with pytest.raises(vmctl.ImageError) as caught:
        yield
    assert said in str(caught.value)
    assert "\n" not in caught.value.brief
    assert caught.value.hint


def test_evil_packages_are_not_imported(
    host: vmctl.Host, tmp_path: Path, untouched: Callable[[], None]
) -> None:
    path = tmp_path / "in" / "vm.ova"
    path.parent.mkdir()
    for case, (entries, said) in (EVIL | LATE).items():
        pack(path, *entries)
        with refused(said):
            host.import_machine(path, name="evil")
        if case in EVIL:
            with refused(said):
                host.preview_import(path)
        assert list(path.parent.iterdir()) == [path]
    untouched()


def test_an_evil_package_at_the_command_line(
    host: vmctl.Host, tmp_path: Path, untouched: Callable[[], None]
) -> None:
    path = tmp_path / "in" / "vm.ova"
    path.parent.mkdir()
    for case in ("a member outside", "a hard link", "a device", "two disks of one name"):
        entries, said = EVIL[case]
        pack(path, *entries)
        done = CliRunner().invoke(root, ["-c", host.uri, "import", str(path), "--name", "evil"])
        assert (done.exit_code, done.stdout) == (1, "")
        error, hint = done.stderr.splitlines()
        assert error.startswith("error: ")
        assert said in error
        assert hint.startswith("hint: ")
    untouched()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_not_pulled(host: vmctl.Host, untouched: Callable[[], None], kind: str) -> None:
    bomb = BOMBS[kind](bytes(ZEROS)) * 17
    assert len(bomb) * 250 < 17 * ZEROS
    with serving() as server:
        server.page("/bomb", bomb)
        with refused("unfolds to more than it may"):
            host.images.pull(server.url("/bomb"), sha256=hashlib.sha256(bomb).hexdigest())
    untouched()
