"""UEFI's variables, as firmware keeps them in a file: looked at before a machine is given them."""

from __future__ import annotations

import struct
from pathlib import Path

from vmctl.errors import ImageError
from vmctl.imaging.inspection import inspect

__all__ = ["check_nvram"]

# The header of a firmware volume: UEFI Platform Initialization Specification 1.8, volume 3, 3.2.1.
_LENGTH_AT, _SIGNATURE_AT, _SIGNATURE = 32, 40, b"_FVH"


def check_nvram(path: Path) -> None:
    """Refuse a file that holds anything but the variables of a UEFI firmware.

    Raises:
        ImageError: It is no firmware volume, was cut off, or is an image of a disk as well.
    """
    image = inspect(path, format="raw")
    with path.open("rb") as file:
        head = file.read(_SIGNATURE_AT + len(_SIGNATURE))
    length = 0
    if head[_SIGNATURE_AT:] == _SIGNATURE:
        (length,) = struct.unpack_from("<Q", head, _LENGTH_AT)
    # Where the flash is larger than what is in it, as AArch64's is, zeros follow.
    if not 0 < length <= image.size:
        raise ImageError(
            f"{str(path)!r} does not hold the variables of a UEFI firmware, or not all of them",
            hint="get it again: it was cut off, or changed on its way",
        )
