"""Images of other formats, turned into the qcow2 that base images are; kept for the next time."""

from __future__ import annotations

from contextlib import suppress

from vmctl.errors import UnsupportedError
from vmctl.imaging.digests import cache_folder
from vmctl.imaging.inspection import Image, inspect
from vmctl.imaging.qemu_img import check_whole, convert
from vmctl.progress import Phase

__all__ = ["as_qcow2", "check_once"]


def as_qcow2(image: Image, *, phase: Phase | None = None) -> Image:
    """Return the image as qcow2; one that is qcow2 already is returned as it is.

    Raises:
        ImageError: qemu-img found it damaged.
        ResourceError: The cache's disk is full.
        UnsupportedError: There is no qemu-img here.
    """
    if image.format == "qcow2":
        check_once(image)
        return image
    folder = cache_folder() / "converted"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"sha256-{image.digest}.{image.format}.qcow2"
    if not target.exists():
        convert(image, target, "qcow2", options="compat=1.1", phase=phase)
    return inspect(target, format="qcow2", phase=phase)


def check_once(image: Image) -> None:
    """See that a qcow2 image is whole, unless one with its digest was seen to be so before.

    Raises:
        ImageError: qemu-img found it damaged.
    """
    seen = cache_folder() / "whole" / image.digest
    if not seen.exists():
        try:
            check_whole(image)
        except UnsupportedError:
            # A client that only sends images on need not have qemu-img.
            return
        # It is only a cache: where it can't be written, the image is looked at again.
        with suppress(OSError):
            seen.parent.mkdir(parents=True, exist_ok=True)
            seen.touch()
