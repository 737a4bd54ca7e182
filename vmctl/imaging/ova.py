"""OVA and OVF packages: a descriptor, a manifest and disks, in one tar file or one folder.

Nothing is ever unpacked by the names in it. Those members that the descriptor names are copied, one
by one, to files that the caller names; a package that holds anything but plain files is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from vmctl.errors import ImageError
from vmctl.imaging.appliance import Appliance, ApplianceDisk
from vmctl.imaging.ovf import is_plain_name, parse_ovf
from vmctl.imaging.ovf_xml import LARGEST_DESCRIPTOR
from vmctl.imaging.reading import opened, reading
from vmctl.imaging.scratch import refuse_without_room
from vmctl.progress import Phase

__all__ = ["Package", "read_package"]

_CHUNK = 1024 * 1024
_MOST_MEMBERS = 1000
_MOST_MANIFEST = 1024 * 1024
_HINT_AGAIN = "get it again, and compare its checksum"
_HINT_EXPORT = "export the machine again; an OVA holds one .ovf, its manifest and its disks"
_DIGESTS = {"SHA1": "sha1", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}
_MANIFEST_LINE = re.compile(r"(SHA1|SHA256|SHA384|SHA512) ?\((.{1,200})\) ?= ?([0-9a-fA-F]+)")


@dataclass(frozen=True)
class _Member:
    """Where a file of the package lies: all of a file, or a piece of the tar."""

    path: Path
    offset: int
    size: int


class Package:
    """An appliance's package, whose members were listed and whose descriptor was read.

    Attributes:
        name: The name of its file.
        appliance: What the descriptor says.
        warnings: What is missing without being wrong.
    """

    def __init__(self, path: Path, members: dict[str, _Member], descriptor: str) -> None:
        self._path = path
        self.name = path.name
        self._members = members
        text = b"".join(_pieces(self._member(descriptor), LARGEST_DESCRIPTOR + 1))
        self._manifest = self._read_manifest(f"{Path(descriptor).stem}.mf")
        self.warnings: tuple[str, ...] = ()
        if self._manifest:
            self._compare(descriptor, text)
        else:
            self.warnings = ("it has no manifest, so nothing says that its files are whole",)
        self.appliance: Appliance = parse_ovf(text, source=f"'{descriptor}' in {str(path)!r}")
        for disk in self.appliance.disks:
            self._check_disk(disk)

    def _refuse(self, what: str, *, hint: str = _HINT_EXPORT) -> NoReturn:
        raise ImageError(f"{str(self._path)!r} {what}", hint=hint)

    def _member(self, name: str) -> _Member:
        if name not in self._members:
            self._refuse(f"lacks the file {name!r} that it names", hint=_HINT_AGAIN)
        return self._members[name]

    def _check_disk(self, disk: ApplianceDisk) -> None:
        if not disk.file:
            return
        member = self._member(disk.file)
        if disk.file_size is not None and disk.file_size != member.size:
            self._refuse(
                f"has {member.size} bytes of {disk.file!r}, and says {disk.file_size}",
                hint=_HINT_AGAIN,
            )
        if self._manifest and disk.file not in self._manifest:
            self._refuse(f"has a manifest that says nothing of {disk.file!r}", hint=_HINT_AGAIN)

    def _read_manifest(self, name: str) -> dict[str, tuple[str, str]]:
        if name not in self._members:
            return {}
        text = b"".join(_pieces(self._members[name], _MOST_MANIFEST + 1))
        if len(text) > _MOST_MANIFEST:
            self._refuse("has a manifest of more than 1 MiB")
        found: dict[str, tuple[str, str]] = {}
        for line in text.decode("utf-8", "replace").splitlines():
            if not line.strip():
                continue
            match = _MANIFEST_LINE.fullmatch(line.strip())
            if match is None:
                self._refuse(f"has a manifest with the line {line[:80]!r}")
            kind, member, digest = match.groups()
            if member in found:
                self._refuse(f"has a manifest that lists {member!r} twice")
            self._member(member)
            found[member] = (_DIGESTS[kind], digest.lower())
        if not found:
            self._refuse("has an empty manifest")
        return found

    def _compare(self, name: str, content: bytes) -> None:
        if name not in self._manifest:
            self._refuse(f"has a manifest that says nothing of {name!r}", hint=_HINT_AGAIN)
        kind, digest = self._manifest[name]
        if hashlib.new(kind, content, usedforsecurity=False).hexdigest() != digest:
            self._mismatch(name)

    def _mismatch(self, name: str) -> NoReturn:
        self._refuse(f"has another {name!r} than its manifest says", hint=_HINT_AGAIN)

    def take(self, disk: ApplianceDisk, target: Path, *, phase: Phase | None = None) -> None:
        """Copy a disk's file out of the package.

        Args:
            disk: One with a file.
            target: Where to; it must not exist.
            phase: Told how far it is.

        Raises:
            ImageError: It is not what the manifest says, or more than its disk can hold.
            ResourceError: There is no room for it.
        """
        member = self._member(disk.file)
        refuse_without_room(target.parent, member.size, f"the disk {disk.file!r}")
        kind, digest = self._manifest.get(disk.file, ("sha256", ""))
        hashed = hashlib.new(kind, usedforsecurity=False)
        # What a format adds to a disk's own bytes is far less than this.
        bound = disk.capacity + disk.capacity // 8 + (64 << 20)
        unpacker = _Gunzip(bound) if disk.gzip else None
        done = 0
        with target.open("xb") as file:
            for piece in _pieces(member, member.size):
                hashed.update(piece)
                done += len(piece)
                if phase is not None:
                    phase.update(f"reading {disk.file}", done / max(member.size, 1))
                for part in (piece,) if unpacker is None else unpacker.feed(piece):
                    file.write(part)
        if done != member.size:
            self._refuse(f"was cut off inside {disk.file!r}", hint=_HINT_AGAIN)
        if digest and hashed.hexdigest() != digest:
            self._mismatch(disk.file)
        if unpacker is not None and not unpacker.is_whole():
            self._refuse(f"has a damaged {disk.file!r}", hint=_HINT_AGAIN)


class _Gunzip:
    """Unpacks gzip, and no more than so many bytes of it."""

    def __init__(self, bound: int) -> None:
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._left = bound

    def feed(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            try:
                part = self._unpacker.decompress(piece, _CHUNK)
            except zlib.error as error:
                raise ImageError(
                    "a disk of the package is no gzip file, though it says so",
                    details=str(error),
                    hint=_HINT_AGAIN,
                ) from error
            self._left -= len(part)
            if self._left < 0:
                raise ImageError(
                    "a compressed disk of the package unpacks to more than its disk can hold",
                    hint="such a file is made to fill a disk up: don't use it",
                )
            yield part
            piece = self._unpacker.unconsumed_tail
            if self._unpacker.eof:
                return

    def is_whole(self) -> bool:
        return self._unpacker.eof


def _pieces(member: _Member, most: int) -> Iterator[bytes]:
    """Read a member, up to so many bytes."""
    left = min(member.size, most)
    # Between the look at a folder's file and now, somebody may have put a link there.
    handle = os.open(member.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        file.seek(member.offset)
        while left and (piece := file.read(min(_CHUNK, left))):
            left -= len(piece)
            yield piece


def read_package(path: Path) -> Package:
    """Look into an OVA, or an OVF descriptor with its files beside it; no disk is read yet.

    Raises:
        NotFoundError: There is no such file.
        ImageError: It is not fit to be imported.
    """
    with opened(path) as file, reading(path):
        start = file.read(512)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return Package(path, _beside(path), path.name)
    # What the user named may be a link; what it leads to is read.
    real = path.resolve()
    members = _members(real)
    descriptors = [name for name in members if name.lower().endswith(".ovf")]
    if len(descriptors) != 1:
        raise ImageError(
            f"{str(path)!r} has {len(descriptors) or 'no'} OVF descriptor"
            f"{'s' if len(descriptors) > 1 else ''}, and one is wanted",
            hint=_HINT_EXPORT,
        )
    return Package(path, members, descriptors[0])


def _beside(path: Path) -> dict[str, _Member]:
    """List the plain files in a descriptor's folder."""
    found = {}
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if is_plain_name(entry.name) and entry.is_file(follow_symlinks=False):
                size = entry.stat(follow_symlinks=False).st_size
                found[entry.name] = _Member(path.parent / entry.name, 0, size)
    real = path.resolve()
    found[path.name] = _Member(real, 0, real.stat().st_size)
    return found


class _Bounded:
    """A tar file whose headers can't make anybody read more than a little at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise tarfile.ReadError("a header of more than 1 MiB")
        return self._file.read(size)


def _members(path: Path) -> dict[str, _Member]:
    def refuse(what: str, *, hint: str = _HINT_EXPORT) -> NoReturn:
        raise ImageError(f"{str(path)!r} {what}", hint=hint)

    found: dict[str, _Member] = {}
    try:
        with opened(path) as file:
            whole = os.fstat(file.fileno())
            with tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:  # type: ignore[call-overload]
                for member in tar:
                    name = member.name
                    if not member.isreg() or member.issparse():
                        refuse(f"holds {name[:80]!r}, which is {_kind(member)}")
                    if not is_plain_name(name):
                        refuse(f"holds a file of the name {name[:80]!r}, outside its own folder")
                    if name in found:
                        refuse(f"holds two files of the name {name!r}")
                    if len(found) >= _MOST_MEMBERS:
                        refuse(f"holds more than {_MOST_MEMBERS} files")
                    if member.size < 0 or member.offset_data + member.size > whole.st_size:
                        refuse(f"was cut off inside {name!r}", hint=_HINT_AGAIN)
                    found[name] = _Member(path, member.offset_data, member.size)
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
        raise ImageError(
            f"{str(path)!r} is no OVA: it is no tar file, or a damaged one",
            details=str(error),
            hint=_HINT_AGAIN,
        ) from error
    return found


def _kind(member: tarfile.TarInfo) -> str:
    kinds = (
        (member.issym() or member.islnk(), "a link"),
        (member.isdir(), "a folder"),
        (member.isfifo(), "a pipe"),
        (member.isdev(), "a device"),
        (member.issparse(), "a sparse file"),
    )
    return next((name for is_it, name in kinds if is_it), "no plain file")
