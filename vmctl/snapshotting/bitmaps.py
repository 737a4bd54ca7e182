"""Dirty bitmaps in a qcow2 file, as its header says. Pure: bytes in, a number out.

https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst
"""

from __future__ import annotations

import struct

__all__ = ["HEADER", "bitmaps_in"]

HEADER = 64 << 10
"""How many of a file's first bytes tell."""

_MAGIC = b"QFI\xfb"
_V3_HEADER = 104
_BITMAPS = 0x23852875
# The autoclear feature that says that this header extension holds.
_HAS_BITMAPS = 1


def bitmaps_in(header: bytes) -> int:
    """Return how many bitmaps a file keeps; 0 for what is no qcow2 file.

    Those of a QEMU that runs come to be in the file when it ends.

    Args:
        header: Its first bytes, `HEADER` of them or all that there are.
    """
    if len(header) < _V3_HEADER or not header.startswith(_MAGIC):
        return 0
    (version,) = struct.unpack(">I", header[4:8])
    (autoclear,) = struct.unpack(">Q", header[88:96])
    if version < 3 or not autoclear & _HAS_BITMAPS:
        return 0
    (begin,) = struct.unpack(">I", header[100:104])
    while begin + 12 <= len(header):
        kind, size = struct.unpack(">II", header[begin : begin + 8])
        if kind == _BITMAPS:
            return int(struct.unpack(">I", header[begin + 8 : begin + 12])[0])
        if not kind:
            break
        begin += 8 + (size + 7) // 8 * 8
    return 0
