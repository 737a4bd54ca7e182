"""Files that a user named, opened for reading: what is wrong with one is said in one way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vmctl.errors import ImageError, NotFoundError

__all__ = ["opened", "reading"]


@contextmanager
def reading(path: Path, kind: str = "file") -> Iterator[None]:
    """Tell what goes wrong with reading a file in the block.

    Args:
        path: The file.
        kind: What errors call it: ``file``, ``image file``.

    Raises:
        NotFoundError: There is no such file.
        ImageError: It can't be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no {kind} {str(path)!r}", hint="check the path; it is one of this machine"
        ) from error
    except OSError as error:
        raise ImageError(
            f"can't read the {kind} {str(path)!r}",
            details=error.strerror or str(error),
            hint="give the path of a file that this user may read",
        ) from error


@contextmanager
def opened(path: Path, kind: str = "file") -> Iterator[BinaryIO]:
    """Give a regular file, open for reading; of the block's own errors none is touched.

    Args:
        path: The file.
        kind: What errors call it, as in `reading`.

    Raises:
        NotFoundError: There is no such file.
        ImageError: It can't be read, or is a folder, a pipe or a device.
    """
    with reading(path, kind):
        # Opening a device may do something, so it is looked at first; and then what was opened is.
        _refuse_irregular(path.stat(), path, kind)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        _refuse_irregular(os.fstat(handle), path, kind)
        yield file


def _refuse_irregular(status: os.stat_result, path: Path, kind: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(
            f"the {kind} {str(path)!r} is no regular file",
            hint="give the path of an ordinary file; a device is copied into one by qemu-img",
        )
