"""What a header leads to, before a machine gets the volume or the host copies it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, cast

import pytest

from vmctl.errors import ImageError
from vmctl.existing import refuse_unsafe
from vmctl.hypervisor.volumes import StoredVolume


@dataclass
class Volume:
    """A volume whose first bytes are known."""

    header: bytes
    pool: str = "devices"
    name: str = "one"
    connection: Any = None

    def read(self, *, length: int) -> bytes:
        return self.header[:length]


def overlay(name: bytes) -> StoredVolume:
    head = b"QFI\xfb" + struct.pack(">IQI", 2, 80, len(name))
    return cast("StoredVolume", Volume(head.ljust(80, b"\0") + name))


def test_a_volume_on_a_device_lies_on_nothing() -> None:
    with pytest.raises(ImageError, match="lies on '/dev/vg/other'"):
        refuse_unsafe(overlay(b"/dev/vg/other"), "qcow2", alone=True)
    refuse_unsafe(cast("StoredVolume", Volume(bytes(512))), "raw", alone=True)


def test_what_a_raw_disks_guest_wrote_is_refused() -> None:
    with pytest.raises(ImageError, match="declared as raw, and what is in it is qcow2"):
        refuse_unsafe(overlay(b"/etc/shadow"), "raw")
