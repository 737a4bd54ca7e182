"""How many dirty bitmaps a qcow2 file says that it keeps."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vmctl.snapshotting.bitmaps import HEADER, bitmaps_in


def test_as_qemu_img_writes_them(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"]
    subprocess.run(create, check=True)
    assert bitmaps_in(image.read_bytes()[:HEADER]) == 0
    for count, name in enumerate(("one", "two"), start=1):
        subprocess.run(["qemu-img", "bitmap", "--add", str(image), name], check=True)
        assert bitmaps_in(image.read_bytes()[:HEADER]) == count


def test_what_is_no_header_has_none() -> None:
    for header in (b"", b"QFI\xfb", bytes(HEADER), b"QFI\xfb" + b"\xff" * 200):
        assert bitmaps_in(header) == 0
