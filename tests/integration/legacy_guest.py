"""A guest that has a keyboard, a screen and a serial port, and nothing else: a boot sector.

It echoes what comes from its keyboard and its serial port to both its screen and its serial port. A
key that has no character is shown as its scan code (``<3b>``), Enter gives a prompt, and Ctrl-F a
flood on the serial port. The last two lines of its screen are green and red.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import vmctl

__all__ = ["BANNER", "PROMPT", "at_prompt", "floppy", "legacy_spec"]

BANNER = "Legacy system ready"
PROMPT = "A:\\>"

# nasm -f bin legacy_guest.asm, without the zeros at its end.
_PROGRAM = bytes.fromhex(
    "31c08ed88ed0bc007cfcfbb80300cd10bafa03b007eeb800b88ec0bf600eb95000b8db02f3abb95000b8db04"
    "f3abbecb7cac84c07405e85200ebf6b401cd16742eb400cd1684c074093ce07405e83300ebe988e1b03ce832"
    "0088c8c0e804e8500088c8240fe84900b03ee81e00ebccbafd03eca8017409baf803ece80500ebbbf4ebb83c"
    "0d741c3c067430b40ebb0700cd1088c4bafd03eca82074fb88e0baf803eec3bede7cac84c07405e8ddffebf6"
    "c304303c3976d40427ebd0baf803b078b94f00eee2fdb00aeeebf04c65676163792073797374656d20726561"
    "64790d0a413a5c3e"
)
_SECTOR = 512
_FLOPPY = 1440 * 1024


def floppy() -> bytes:
    """Return the image of a floppy that it boots from."""
    sector = _PROGRAM.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"
    return sector.ljust(_FLOPPY, b"\0")


def legacy_spec(folder: str | os.PathLike[str], **fields: object) -> vmctl.VMSpec:
    """Return the spec of such a guest, whose floppy is written into a folder."""
    image = Path(folder) / "legacy.img"
    image.write_bytes(floppy())
    given = {
        "name": f"l{uuid.uuid4().hex[:8]}",
        "profile": "legacy",
        "memory": "32MiB",
        "boot": {"order": ["floppy"]},
        "floppies": [{"path": str(image)}],
        "nics": [],
    } | fields
    return vmctl.VMSpec.model_validate(given)


def at_prompt(vm: vmctl.VM) -> None:
    """Bring such a guest to a prompt with nothing before it that nobody has read."""
    for attempt in range(10):
        mark = uuid.uuid4().hex[:8]
        vm.console.send(f"{mark}\r")
        try:
            vm.console.expect(f"{mark}\n{PROMPT}", timeout=6)
        except vmctl.WaitTimeoutError:
            # As it starts, it empties its serial port: some of that was lost.
            if attempt == 9:
                raise
        else:
            return
