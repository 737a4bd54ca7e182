"""Folders of backups: one for each machine, in it one for each backup.

A backup counts when its manifest has its name, which is the last thing that happens. A folder
without one was left by a backup that was interrupted, and goes with the next.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vmctl.backing_up import manifest as manifests
from vmctl.backing_up.manifest import ID, Manifest
from vmctl.errors import (
    ConflictError,
    ImageError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    UsageError,
    VmctlError,
)
from vmctl.imaging.reading import reading

__all__ = ["Damaged", "Known", "MachineFolder", "Target", "sync_folder", "writing"]

_MARKER = "vmctl-backups.json"
_VERSION = 1
_LOCK = ".lock"
_ID_DIGITS = 16
_UUID_LENGTH = 36
# What file systems put into their own top folder.
_NOT_OURS = frozenset({"lost+found"})


@dataclass(frozen=True)
class Known:
    """A backup whose manifest was read."""

    manifest: Manifest
    sha256: str
    folder: Path

    @property
    def id(self) -> str:
        """Its ID."""
        return self.manifest.id


@dataclass(frozen=True)
class Damaged:
    """A backup whose manifest can't be read."""

    id: str
    folder: Path
    error: VmctlError


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Say in vmctl's words that a folder of backups can't be written to.

    Raises:
        ResourceError: It can't.
    """
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"can't write the backup to {str(place)!r}",
            details=error.strerror or str(error),
            hint="name a folder that this user may write to, and that has room",
        ) from error


@dataclass(frozen=True)
class Target:
    """A folder of backups.

    Attributes:
        path: Where it is.
        id: Tells it from others, wherever it is moved to.
    """

    path: Path
    id: str

    @classmethod
    def open(cls, path: Path) -> Target:
        """Open a folder that has backups.

        Raises:
            NotFoundError: There is no such folder, or it is none of backups.
            ImageError: What says so is damaged.
            UnsupportedError: It is of a newer vmctl.
            UsageError: That is no path.
        """
        _refuse_no_path(path)
        try:
            text = (path / _MARKER).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(
                f"there is no folder of backups at {str(path)!r}",
                hint="it is a file: read a backup that was written to a stream from stdin, "
                f"`- <{path.name}`"
                if path.is_file()
                else "name the folder that `vmctl backup create` was given",
            ) from error
        except OSError as error:
            raise ImageError(
                f"can't read the folder of backups {str(path)!r}",
                details=error.strerror or str(error),
                hint="name a folder that this user may read",
            ) from error
        return cls(path, _read_marker(path, text))

    @classmethod
    def open_or_make(cls, path: Path) -> Target:
        """Open a folder for backups; one that is empty, or is not there, becomes one.

        Raises:
            UsageError: There is something else in it, it is a part of such a folder itself, or it
                is no folder.
            ResourceError: It can't be made.
        """
        _refuse_no_path(path)
        path = path.absolute()
        if (path.parent / _MARKER).exists():
            raise UsageError(
                f"{str(path)!r} is one machine's part of a folder of backups",
                hint=f"name the whole folder: {path.parent}",
            )
        with suppress(NotFoundError):
            return cls.open(path)
        with writing(path):
            if path.exists() and not path.is_dir():
                raise UsageError(
                    f"{str(path)!r} is a file, and backups lie in a folder",
                    hint="name a new folder; one backup alone goes into a file as a stream: "
                    "`vmctl backup create NAME - >FILE`",
                )
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            others = {entry.name for entry in path.iterdir()} - _NOT_OURS
            if others - {f"{_MARKER}.part"}:
                raise UsageError(
                    f"{str(path)!r} has something else in it than backups",
                    hint="name an empty folder, or a new one",
                )
            part = path / f"{_MARKER}.part"
            own = {"vmctl_backups": _VERSION, "id": secrets.token_hex(_ID_DIGITS // 2)}
            write_synced(part, json.dumps(own).encode())
            # Of two that begin at once, both go on with what is there then.
            with suppress(FileExistsError):
                (path / _MARKER).hardlink_to(part)
            part.unlink(missing_ok=True)
            sync_folder(path)
        return cls.open(path)

    def machine(self, uuid: str) -> MachineFolder:
        """Return the part of one machine, which may not exist."""
        return MachineFolder(self.path / uuid)

    def machines(self) -> list[MachineFolder]:
        """Return the parts of all machines that have one, sorted."""
        with reading(self.path, "folder of backups"):
            found = [entry for entry in self.path.iterdir() if len(entry.name) == _UUID_LENGTH]
            return [
                MachineFolder(entry)
                for entry in sorted(found)
                if entry.is_dir() and not entry.is_symlink()
            ]


def _refuse_no_path(path: Path) -> None:
    if "\0" in str(path):
        raise UsageError(
            f"{str(path)[:80]!r} is no path: it has a NUL in it",
            hint="name a folder as the file system has it",
        )


def _read_marker(path: Path, text: bytes) -> str:
    try:
        document = json.loads(text)
        version, own = document["vmctl_backups"], document["id"]
        if int(own, 16) < 0 or len(own) != _ID_DIGITS or type(version) is not int:
            raise ValueError(own)
    except (ValueError, TypeError, KeyError) as error:
        raise ImageError(
            f"the folder of backups {str(path)!r} has a damaged {_MARKER}",
            hint="put that file back as it was: the backups in it are as they were",
        ) from error
    if version > _VERSION:
        raise UnsupportedError(
            f"the folder of backups {str(path)!r} is of version {version}",
            hint="a newer vmctl made it: use that one",
        )
    return str(own)


@dataclass(frozen=True)
class MachineFolder:
    """The backups of one machine."""

    path: Path

    @property
    def uuid(self) -> str:
        """The machine's UUID."""
        return self.path.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from making and removing backups here while the block runs.

        Raises:
            ConflictError: Somebody is at it.
            ResourceError: It can't be written to.
        """
        with writing(self.path):
            self.path.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError(
                    f"somebody else is making or removing backups in {str(self.path)!r}",
                    hint="try again when that has ended",
                ) from error
            except OSError as error:
                if not _without_locks(error):
                    raise
            yield
        finally:
            os.close(handle)

    def backups(self) -> list[Known | Damaged]:
        """Return the backups, the oldest first."""
        with reading(self.path, "folder of backups"):
            if not self.path.is_dir():
                return []
            return [self._read(folder) for folder in self._folders() if _counts(folder)]

    def _folders(self) -> list[Path]:
        return sorted(
            entry
            for entry in self.path.iterdir()
            if ID.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink()
        )

    def _read(self, folder: Path) -> Known | Damaged:
        try:
            manifest, sha256 = manifests.read(folder)
            if manifest.uuid != self.uuid:
                raise ImageError(
                    f"the backup {folder.name} is another machine's",
                    hint="put it back where it was",
                )
        except VmctlError as error:
            return Damaged(folder.name, folder, error)
        return Known(manifest, sha256, folder)

    def remove_unfinished(self) -> None:
        """Remove what interrupted backups left; within `locked` nobody is at work on any."""
        for folder in self._folders():
            if not _counts(folder):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def beginning(self, backup: str) -> Iterator[Path]:
        """Give an empty folder for a backup, which is gone again if the block fails."""
        folder = self.path / backup
        with writing(self.path):
            folder.mkdir(mode=0o700)
        try:
            yield folder
        except BaseException:
            if not _counts(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def commit(self, folder: Path, manifest: Manifest) -> Known:
        """Let a backup count, all of whose files are written and synced."""
        content, digest = manifests.to_bytes(manifest)
        part = folder / f"{manifests.NAME}.part"
        with writing(self.path):
            write_synced(part, content)
            sync_folder(folder)
            part.rename(folder / manifests.NAME)
            sync_folder(folder)
            sync_folder(self.path)
        return Known(manifest, digest, folder)

    def remove(self, folder: Path) -> None:
        """Remove a backup; it stops counting at once."""
        with writing(self.path):
            (folder / manifests.NAME).unlink(missing_ok=True)
            sync_folder(folder)
            shutil.rmtree(folder)


def _counts(folder: Path) -> bool:
    return (folder / manifests.NAME).exists()


def _without_locks(error: OSError) -> bool:
    return error.errno in {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


def write_synced(path: Path, content: bytes) -> None:
    """Write a file of this user's alone, and wait until it is on the disk."""
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
