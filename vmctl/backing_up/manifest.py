"""What a backup says of itself: the file that is written last, and without which it is none."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from vmctl.errors import ImageError, UnsupportedError

__all__ = [
    "NAME",
    "Backup",
    "BackupFile",
    "Consistency",
    "Kind",
    "Manifest",
    "Parent",
    "next_id",
    "read",
    "to_bytes",
]

NAME = "manifest.json"
VERSION = 1
_LARGEST = 8 << 20
_LARGEST_FILE = 1 << 51
_STAMP = "%Y%m%dT%H%M%S%fZ"
ID = re.compile(r"\d{8}T\d{12}Z")
_HINT = "`vmctl backup verify` says which backups are whole"

_Id = Annotated[str, StringConstraints(pattern=rf"^{ID.pattern}$")]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Line = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Target = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,8}$")]
_TargetId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
_Uuid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class Kind(StrEnum):
    """What is in a backup."""

    FULL = "full"
    INCREMENTAL = "incremental"
    """What was changed since its parent."""


class Consistency(StrEnum):
    """What state the file systems in a backup are in."""

    QUIESCED = "quiesced"
    """The guest's agent had frozen them: all that programs had written is there."""
    CRASH_CONSISTENT = "crash-consistent"
    """As after a power cut: journals mend them."""
    OFF = "off"
    """The machine was off."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BackupFile(_Strict):
    """A file of a backup.

    Attributes:
        role: What it is.
        target: A disk's name on its bus; of ``nvram``, the firmware's file that wrote it.
        size: Bytes of the file.
        sha256: Its digest.
        virtual_size: Bytes that a guest sees of a disk.
        sources: A disk's files on the host when it was backed up, the uppermost first.
        read_only: Whether the machine could not write to that disk: full backups alone have it.
    """

    role: Literal["disk", "nvram", "kernel", "initrd", "definition"]
    target: _Line = ""
    size: int = Field(ge=0, le=_LARGEST_FILE)
    sha256: _Sha256
    virtual_size: int = Field(default=0, ge=0, le=_LARGEST_FILE)
    sources: tuple[_Line, ...] = ()
    read_only: bool = False

    @property
    def name(self) -> str:
        """Its name in the backup's folder. It is made up here: no manifest names paths."""
        if self.role == "disk":
            return f"disk-{self.target}.qcow2"
        return "domain.xml" if self.role == "definition" else self.role


class _DiskFile(_Strict):
    target: _Target
    virtual_size: int = Field(gt=0)


class Parent(_Strict):
    """The backup that an incremental one goes on from.

    Attributes:
        id: Its ID.
        sha256: The digest of its manifest.
    """

    id: _Id
    sha256: _Sha256


class Manifest(_Strict):
    """A backup, as its file says.

    Attributes:
        id: Its name; names sort by time.
        target: The ID of the folder that it was made into.
        parent: What it goes on from; None for a full one.
        created: When its moment was.
        uuid: The machine's UUID.
        machine: The machine's name at that time.
        architecture: The machine's processor.
        consistency: What state its file systems are in.
        why: Why it is full; empty for an incremental one.
        remarks: What else is to be known, one sentence each.
        checkpoint: The checkpoint that the next one can go on from; empty where there is none.
        spec: The machine's spec without secrets, as plain data.
        host_key: The guest's public SSH host key.
        ssh_user: Whom vmctl logs in as.
        instance_id: cloud-init's instance-id.
        files: What lies beside it.
    """

    id: _Id
    target: _TargetId
    parent: Parent | None = None
    created: AwareDatetime
    uuid: _Uuid
    machine: _Line
    architecture: _Line
    consistency: Consistency
    why: _Line = ""
    remarks: tuple[_Line, ...] = ()
    checkpoint: _Line = ""
    spec: dict[str, Any]
    host_key: _Line = ""
    ssh_user: _Line = ""
    instance_id: _Line = ""
    files: tuple[BackupFile, ...]

    @property
    def kind(self) -> Kind:
        """Whether it is full."""
        return Kind.FULL if self.parent is None else Kind.INCREMENTAL

    @property
    def disks(self) -> tuple[BackupFile, ...]:
        """The disks that are in it."""
        return tuple(file for file in self.files if file.role == "disk")

    def file(self, role: str) -> BackupFile | None:
        """Return the file of a role, if it has one."""
        return next((file for file in self.files if file.role == role), None)


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A backup in a list.

    Attributes:
        id: Its ID; IDs sort by time.
        machine: The machine's name when it was made.
        uuid: The machine's UUID.
        created: When its moment was, in UTC.
        kind: ``full`` or ``incremental``.
        consistency: ``quiesced``, ``crash-consistent`` or ``off``.
        parent: The backup that it goes on from; empty for a full one.
        size: Bytes that it takes.
        why: Why it is full; empty for an incremental one.
        problem: What is wrong with it, as far as its manifest tells; empty for nothing.
        remarks: What else is to be known of it.
    """

    id: str
    machine: str = ""
    uuid: str = ""
    created: datetime | None = None
    kind: str = ""
    consistency: str = ""
    parent: str = ""
    size: int = 0
    why: str = ""
    problem: str = ""
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest, *, problem: str = "") -> Backup:
        """Return a manifest's facts."""
        return cls(
            id=manifest.id,
            machine=manifest.machine,
            uuid=manifest.uuid,
            created=manifest.created,
            kind=manifest.kind.value,
            consistency=manifest.consistency.value,
            parent="" if manifest.parent is None else manifest.parent.id,
            size=sum(file.size for file in manifest.files),
            why=manifest.why,
            problem=problem,
            remarks=manifest.remarks,
        )


def next_id(now: datetime, last: str = "") -> str:
    """Return the ID of a backup that begins now; it sorts behind the last one."""
    found = now.astimezone(UTC).strftime(_STAMP)
    if found > last:
        return found
    # The clock was set back.
    before = datetime.strptime(last, _STAMP).replace(tzinfo=UTC)
    return datetime.fromtimestamp(before.timestamp() + 1, UTC).strftime(_STAMP)


def to_bytes(manifest: Manifest) -> tuple[bytes, str]:
    """Return what its file holds, and the manifest's digest."""
    content = manifest.model_dump(mode="json")
    digest = _digest(content)
    document = {"vmctl_backup": VERSION, "sha256": digest, "manifest": content}
    return json.dumps(document, indent=1, sort_keys=True).encode(), digest


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: Path) -> tuple[Manifest, str]:
    """Read the manifest of a backup's folder; returns its digest as well.

    Raises:
        ImageError: It can't be read, is damaged, or does not belong there.
        UnsupportedError: A newer vmctl wrote it.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        document = json.loads(text) if len(text) <= _LARGEST else None
        if not isinstance(document, dict):
            document = {}
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    version = document.get("vmctl_backup")
    if type(version) is not int or version < 1:
        raise _damaged(path, "it is no manifest of a backup")
    if version > VERSION:
        raise UnsupportedError(
            f"the backup {folder.name} is of version {version}, and this vmctl knows {VERSION}",
            hint="a newer vmctl made it: use that one",
        )
    content = document.get("manifest")
    if document.get("sha256") != _digest(content):
        raise _damaged(path, "it is not what it was: its digest differs")
    try:
        found = Manifest.model_validate_json(json.dumps(content))
        for disk in found.disks:
            _DiskFile(target=disk.target, virtual_size=disk.virtual_size)
    except ValidationError as error:
        raise _damaged(path, str(error)) from error
    names = [file.name for file in found.files]
    if found.id != folder.name or len(set(names)) != len(names):
        raise _damaged(path, "it is not this backup's")
    return found, str(document["sha256"])


def _damaged(path: Path, why: str) -> ImageError:
    return ImageError(
        f"the manifest of the backup {path.parent.name} is damaged", details=why, hint=_HINT
    )
