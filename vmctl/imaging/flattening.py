"""One file of a disk and all that is underneath it.

The names in the layers' headers are the host's: none of them is followed. qemu-img is told, layer
by layer, which file of the client it is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmctl.errors import ImageError
from vmctl.imaging.inspection import inspect
from vmctl.imaging.qemu_img import no_room_for, run_limited
from vmctl.progress import Phase

__all__ = ["check_overlay", "flatten"]

_QCOW2 = b"QFI\xfb"
_HINT = "`vmctl doctor` looks at the volumes of the host"


def flatten(
    layers: Sequence[tuple[Path, str]],
    target: Path,
    format: str,  # noqa: A002 - qemu-img's own word
    *,
    options: str = "",
    phase: Phase,
) -> None:
    """Write a disk into one file.

    Args:
        layers: File and format of each layer, the uppermost first.
        target: The file to write.
        format: Its format, by qemu-img's name.
        options: What follows qemu-img's ``-o``.
        phase: Told how far it is.

    Raises:
        ImageError: A layer is not fit to be read, or qemu-img failed.
        ResourceError: There is no room.
        UnsupportedError: There is no qemu-img here.
    """
    *overlays, (base, base_format) = layers
    bottom = inspect(base, format=base_format)
    size = bottom.virtual_size
    node: dict[str, Any] = _node(base, base_format)
    if base_format == "qcow2":
        # Its header names nothing, as was just seen; nothing is looked for either.
        node["backing"] = None
    for path, kind in reversed(overlays):
        size = max(size, check_overlay(path, kind))
        node = _node(path, kind) | {"backing": node}
    source = f"json:{json.dumps(node)}"
    command = ["convert", "-p", "-O", format, *(["-o", options] if options else []), source]
    try:
        run_limited([*command, str(target.absolute())], size=size, phase=phase)
    except ImageError as error:
        if (full := no_room_for(target.absolute(), error)) is not None:
            raise full from error
        raise


def _node(path: Path, kind: str) -> dict[str, Any]:
    return {"driver": kind, "file": {"driver": "file", "filename": str(path.absolute())}}


def check_overlay(path: Path, kind: str) -> int:
    """Return an overlay's virtual size; refuse one that keeps its data in yet another file."""
    with path.open("rb") as file:
        header = file.read(104)
    if kind != "qcow2" or header[:4] != _QCOW2 or len(header) < 72:
        raise ImageError("a disk has another image underneath, and is no qcow2", hint=_HINT)
    version = struct.unpack(">I", header[4:8])[0]
    if version >= 3 and struct.unpack(">Q", header[72:80])[0] & 0b100:
        raise ImageError("a disk keeps its data in a file that its header names", hint=_HINT)
    return int(struct.unpack(">Q", header[24:32])[0])
