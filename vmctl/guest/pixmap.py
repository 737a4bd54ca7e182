"""Pictures of a screen as PNG, whatever the hypervisor wrote."""

from __future__ import annotations

import re
import struct
import zlib

from vmctl.errors import HypervisorError

__all__ = ["as_png", "size_of"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# https://netpbm.sourceforge.net/doc/ppm.html
_PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")


def as_png(picture: bytes) -> bytes:
    """Return a picture that is PNG or PPM as PNG.

    Raises:
        HypervisorError: It is neither, or cut off.
    """
    if picture.startswith(_SIGNATURE):
        return picture
    header = _PPM.match(picture)
    if header is not None:
        width, height = int(header[1]), int(header[2])
        pixels = picture[header.end() :]
        if width and height and len(pixels) >= 3 * width * height:
            return _png(width, height, pixels)
    raise HypervisorError(
        "the hypervisor's screenshot can't be read",
        details=f"{len(picture)} bytes, beginning with {picture[:16]!r}",
        hint="try again; a guest that changes its resolution just then may be the reason",
    )


def size_of(png: bytes) -> tuple[int, int]:
    """Return the width and the height of a PNG."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """Return 8 bit RGB as PNG (https://www.w3.org/TR/png/)."""
    line = 3 * width
    lines = b"".join(b"\0" + pixels[line * row : line * (row + 1)] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(lines)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
