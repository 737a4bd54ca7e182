"""Write an initramfs: a cpio archive in the "newc" format, owned by root whoever writes it."""

import gzip
import stat
from pathlib import Path

# Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
_MAGIC = b"070701"


def write_initramfs(tree: Path, target: Path) -> None:
    """Pack `tree` into the gzip-compressed archive `target`."""
    archive = bytearray()
    for number, path in enumerate([tree, *sorted(tree.rglob("*"))], start=1):
        name = "." if path == tree else str(path.relative_to(tree))
        archive += _entry(number, name, path.lstat().st_mode, _content(path))
    archive += _entry(0, "TRAILER!!!", 0, b"")
    target.write_bytes(gzip.compress(archive, mtime=0))


def _content(path: Path) -> bytes:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return str(path.readlink()).encode()
    return path.read_bytes() if stat.S_ISREG(mode) else b""


def _entry(inode: int, name: str, mode: int, content: bytes) -> bytes:
    # inode, mode, uid, gid, links, mtime, size, device (2), device represented (2), name, check
    numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = _MAGIC + b"".join(b"%08x" % number for number in numbers) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
