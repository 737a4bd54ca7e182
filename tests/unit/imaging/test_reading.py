"""What is wrong with a file that a user named is said in one way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vmctl.errors import ConflictError, ImageError, NotFoundError
from vmctl.imaging.reading import opened, reading


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with opened(path) as file:
        assert file.read() == b"content"
        assert os.get_inheritable(file.fileno()) is False


def test_what_can_not_be_opened(tmp_path: Path) -> None:
    with (
        pytest.raises(NotFoundError, match="there is no image file"),
        opened(tmp_path / "none", "image file"),
    ):
        pytest.fail("it was opened")
    (tmp_path / "loop").symlink_to("loop")
    with (
        pytest.raises(ImageError, match="can't read the file") as caught,
        opened(tmp_path / "loop"),
    ):
        pytest.fail("it was opened")
    assert caught.value.details == os.strerror(errno.ELOOP)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    # Without a writer, opening a pipe for reading would wait for one.
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ImageError, match="is no regular file"), opened(path):
            pytest.fail("it was opened")


def test_what_fails_while_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="can't read the file") as caught, reading(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert caught.value.details == os.strerror(errno.EIO)


def test_errors_of_the_block_are_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(FileNotFoundError), opened(path):
        (tmp_path / "other").read_bytes()
    with pytest.raises(ConflictError), opened(path), reading(path):
        raise ConflictError("it is taken", hint="take another")
