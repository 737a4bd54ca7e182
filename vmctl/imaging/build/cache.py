"""Finished images on this machine, each named by what it was made from."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmctl.errors import ImageError, PermissionDeniedError, ResourceError
from vmctl.progress import Phase

__all__ = ["Blueprint", "abandoned_builds", "default_cache", "get_or_build", "image_path"]

# Counts up with every change of the builder's code that changes what is in an image.
_REVISION = 1
_HEX = "[0-9a-f]"


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What decides which image it is.

    Attributes:
        name: The image's name.
        content: All that goes into it, in any form that changes when that does.
        variant: What tells it from others of this name that are kept beside it; may be empty.
    """

    name: str
    content: str
    variant: str = ""

    @property
    def stem(self) -> str:
        """The file's name, up to what changes with the content."""
        return f"{self.name}-{self.variant}" if self.variant else self.name


def default_cache() -> Path:
    """Return the folder of finished images: ``VMCTL_IMAGE_CACHE``, or one in the user's cache."""
    if named := os.environ.get("VMCTL_IMAGE_CACHE"):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(base) / "vmctl" / "guest-images").absolute()


def image_path(blueprint: Blueprint, cache: Path | None = None) -> Path:
    """Return the path that an image has, or will have."""
    text = f"{_REVISION}\0{blueprint.variant}\0{blueprint.content}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return (cache or default_cache()).absolute() / f"{blueprint.stem}-{digest}.qcow2"


def get_or_build(
    blueprint: Blueprint,
    build: Callable[[Path, Path], None],
    *,
    cache: Path | None = None,
    phase: Phase,
    rebuild: bool = False,
) -> Path:
    """Return the image, after `build(work_folder, image)` has made it where necessary.

    Of several that want one image at once, one builds it and the others wait.

    Raises:
        ResourceError: There is no space left.
        ImageError: It can't be built.
        PermissionDeniedError: The folder can't be written to.
    """
    image = image_path(blueprint, cache)
    try:
        image.parent.mkdir(parents=True, exist_ok=True)
        with _lock(image.parent / f"{blueprint.stem}.lock", phase):
            # Whoever holds the lock is alone: a work folder that is here now has lost its builder.
            for stale in image.parent.glob(f".{blueprint.stem}.build-*"):
                _remove(stale)
            if rebuild or not image.exists():
                _build(image, f".{blueprint.stem}.build-", build)
            for old in image.parent.glob(f"{blueprint.stem}-{_HEX * 16}.qcow2"):
                if old != image:
                    old.unlink()
                    phase.update(f"removed {old}, built from an older recipe")
    except OSError as error:
        raise _explained(error, image.parent) from error
    return image


def abandoned_builds(cache: Path, *, remove: bool) -> Iterator[Path]:
    """Yield the work folders whose builders are gone, and then remove them if that is wanted.

    Raises:
        ImageError: Something is still mounted in one.
    """
    for work in sorted(cache.glob(".*.build-*")):
        stem = work.name.removeprefix(".").rpartition(".build-")[0]
        descriptor = os.open(cache / f"{stem}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield work
            if remove:
                _remove(work)
        except BlockingIOError:
            # Its builder, or another of the same image, is at work.
            continue
        finally:
            os.close(descriptor)


def _build(image: Path, prefix: str, build: Callable[[Path, Path], None]) -> None:
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=image.parent))
    try:
        # Made by mkdtemp for its owner only, but apt's unprivileged user has to pass through.
        work.chmod(0o755)
        made = work / image.name
        build(work, made)
        made.chmod(0o644)
        made.replace(image)
    finally:
        _remove(work)


def _remove(work: Path) -> None:
    """Remove a work folder, but nothing that is mounted in it: that would be the host's own."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = Path(line.split()[4].encode().decode("unicode_escape"))
        if work in place.parents:
            raise ImageError(
                f"{place} is still mounted in a folder that has to be removed",
                hint=f"umount --recursive {place}, then try again",
            )
    shutil.rmtree(work)


def _explained(error: OSError, folder: Path) -> ImageError | ResourceError | PermissionDeniedError:
    where = error.filename or folder
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceError(
            f"there is no space left for an image in {folder}",
            hint="make room, or let VMCTL_IMAGE_CACHE name a folder with more of it",
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return PermissionDeniedError(
            f"{where} can't be written to: {error.strerror}",
            hint="let VMCTL_IMAGE_CACHE name a folder of yours",
        )
    return ImageError(
        f"the image can't be built in {folder}: {error.strerror or error}",
        details=str(where),
        hint="look at the folder and at what it lies on",
    )


@contextmanager
def _lock(path: Path, phase: Phase) -> Iterator[None]:
    """Hold an exclusive lock, and say so when it has to be waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.set_inheritable(descriptor, True)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            phase.update("waiting for another build of this image")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
