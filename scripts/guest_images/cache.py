"""Finished images, kept by the hash of what they were made from."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guest_images.commands import progress

BUILDER = Path(__file__).parent


def cache_folder() -> Path:
    """Where finished images are kept."""
    if named := os.environ.get("VMCTL_IMAGE_CACHE"):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(base) / "vmctl" / "guest-images").absolute()


def image_path(name: str, recipe: Path) -> Path:
    """The path that the image of this recipe, as its files are now, has or will have."""
    return cache_folder() / f"{name}-{_digest(recipe)}.qcow2"


def get_or_build(name: str, recipe: Path, build: Callable[[Path, Path], None]) -> Path:
    """Return the cached image, after `build(work_folder, image)` has made it where necessary."""
    image = image_path(name, recipe)
    image.parent.mkdir(parents=True, exist_ok=True)
    with _lock(image.parent / f"{name}.lock"):
        # Whoever holds the lock is alone: a work folder that is here now has lost its builder.
        for stale in image.parent.glob(f".{name}.build-*"):
            shutil.rmtree(stale)
        if image.exists():
            return image
        with tempfile.TemporaryDirectory(prefix=f".{name}.build-", dir=image.parent) as work:
            # Made by mkdtemp for its owner only, but apt's unprivileged user has to pass through.
            Path(work).chmod(0o755)
            made = Path(work) / image.name
            build(Path(work), made)
            made.chmod(0o644)
            made.replace(image)
        for old in image.parent.glob(f"{name}-{'[0-9a-f]' * 16}.qcow2"):
            if old != image:
                old.unlink()
                progress(f"removed {old}, built from older recipe files")
    return image


def _digest(recipe: Path) -> str:
    """A hash over the recipe's files and the builder's code."""
    files = [*BUILDER.glob("*.py"), *(path for path in recipe.rglob("*") if _is_input(path))]
    digest = hashlib.sha256()
    for path in sorted(files):
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        executable = bool(path.lstat().st_mode & 0o100)
        head = f"{path.relative_to(BUILDER)}\0{executable}\0{path.is_symlink()}\0{len(content)}\0"
        digest.update(head.encode() + content)
    return digest.hexdigest()[:16]


def _is_input(path: Path) -> bool:
    return "__pycache__" not in path.parts and (path.is_symlink() or path.is_file())


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, and say so when it has to be waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.set_inheritable(descriptor, True)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another build of this image is under way, waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
