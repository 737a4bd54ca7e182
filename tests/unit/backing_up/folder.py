"""A folder of backups without a host: small files, with manifests that fit them."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from vmctl.backing_up.manifest import BackupFile, Consistency, Manifest, Parent, next_id
from vmctl.backing_up.target import Known, Target

UUID = "01234567-89ab-cdef-0123-456789abcdef"
START = datetime(2026, 3, 4, 12, tzinfo=UTC)
SIZE = 1 << 20


def qcow2(filler: bytes = b"") -> bytes:
    """Return what looks like a qcow2 file of 1 MiB to whoever reads its header."""
    header = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, SIZE)
    return header.ljust(104, b"\0") + filler


class Folder:
    """Makes backups of one machine, each an hour after the one before."""

    def __init__(self, path: Path, uuid: str = UUID, name: str = "web") -> None:
        self.target = Target.open_or_make(path)
        self.machine = self.target.machine(uuid)
        self._name = name
        self.made: list[Known] = []

    def add(self, *, full: bool = False, **changes: Any) -> Known:
        when = START + timedelta(hours=len(self.made))
        backup = next_id(when)
        parent = None if full or not self.made else self.made[-1]
        content = qcow2(backup.encode())
        with self.machine.locked(), self.machine.beginning(backup) as own:
            (own / "disk-vda.qcow2").write_bytes(content)
            disk = BackupFile(
                role="disk",
                target="vda",
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                virtual_size=SIZE,
                sources=("/pool/vda.qcow2",),
            )
            fields: dict[str, Any] = {
                "id": backup,
                "target": self.target.id,
                "parent": None if parent is None else Parent(id=parent.id, sha256=parent.sha256),
                "created": when,
                "uuid": self.machine.uuid,
                "machine": self._name,
                "architecture": "x86_64",
                "consistency": Consistency.QUIESCED,
                "checkpoint": f"vmctl.{self.target.id}.{backup}",
                "spec": {"name": self._name, "disks": [{"size": "1MiB"}]},
                "files": (disk,),
            }
            self.made.append(self.machine.commit(own, Manifest(**{**fields, **changes})))
        return self.made[-1]
