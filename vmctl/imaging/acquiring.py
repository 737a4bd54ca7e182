"""From a URL to an image that was looked at: fetched, verified, unpacked."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmctl.errors import ImageError
from vmctl.imaging.conversion import as_qcow2
from vmctl.imaging.digests import cache_folder
from vmctl.imaging.download import Fetched, Source, fetch
from vmctl.imaging.inspection import Image, inspect
from vmctl.imaging.unpack import compression_of, unpack
from vmctl.progress import Phase

__all__ = ["acquire"]

_log = logging.getLogger(__name__)


def acquire(source: Source, *, phase: Phase | None = None) -> tuple[Image, Fetched]:
    """Fetch an image, or what of it is not in the cache yet, look at it, and make it a qcow2 one.

    What nothing verifies is logged as a warning, whoever said that it may come unverified. What is
    refused does not stay in the cache.

    Raises:
        ImageError: It can't be had, is not what its checksum says, or is not fit to be used.
        ResourceError: There is no room for it.
        UnsupportedError: It is of another format, and there is no qemu-img here.
    """
    fetched = fetch(source, phase=phase)
    if not fetched.verified:
        _log.warning("nothing says what %s has to give: it was not verified", fetched.url)
    path = fetched.path
    if compression_of(path) is not None:
        folder = cache_folder() / "unpacked"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unpacked = folder / f"sha256-{fetched.sha256}"
        with _alone(unpacked):
            try:
                path = unpacked if unpacked.exists() else unpack(path, unpacked, phase=phase)
            except ImageError:
                fetched.path.unlink(missing_ok=True)
                raise
    hint = (
        "see whether the URL is that of a disk image; a raw disk without partitions is "
        "downloaded by other means and imported with --as raw"
    )
    try:
        image = inspect(path, phase=phase)
        # From here on it is one, though it may be damaged.
        hint = "tell those who publish it, or name another mirror"
        return as_qcow2(image, phase=phase), fetched
    except ImageError as error:
        # It would be refused again, so it is not worth its room in the cache.
        for refused in {path, fetched.path}:
            refused.unlink(missing_ok=True)
        raise ImageError(
            f"what {fetched.url} gave is not fit to be used", details=str(error), hint=hint
        ) from error


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Wait until nobody else is making the target."""
    lock = os.open(target.with_name(f"{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
