"""The bundle: a whole machine in one file, which can be written to a pipe and read from one.

It is a tar of plain files in a fixed order::

    bundle.json        what the machine is: its spec without secrets, host key, and its files
    disk-0.qcow2.zst   each file, compressed by Zstandard
    ...
    digests.json       SHA-256 of every file before it, as it stands in the tar

The digests come last, so that nothing has to be read twice on the way out. Whoever reads it trusts
nothing before that: each file goes to a place of the caller's, and all of them count only when the
end was reached and every digest is right.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from vmctl.errors import ImageError
from vmctl.imaging.scratch import refuse_without_room, saying_when_full
from vmctl.progress import Phase

__all__ = ["SUFFIX", "BundledFile", "Manifest", "Reader", "Writer", "is_bundle"]

SUFFIX = ".vmctl"
# The second one has UEFI's variables; a bundle without them is written for every reader.
VERSION = 2
_FIRST, _LAST = "bundle.json", "digests.json"
_BLOCK = 512
_CHUNK = 1024 * 1024
_LARGEST_JSON = 8 * 1024**2
_LARGEST_FILE = 1 << 51
# The largest flash that firmware has, AArch64's.
_LARGEST_NVRAM = 64 << 20
_KINDS = {("disk", "qcow2"), ("kernel", "raw"), ("initrd", "raw"), ("nvram", "raw")}
# What a reader has to have in memory at once, which Zstandard lets the writer choose.
_WINDOW = 1 << 27
_HINT = "get it again: it was cut off, or changed on its way"
_HINT_FULL = "make room where it is written to, or write it to another place"


@dataclass(frozen=True, kw_only=True)
class BundledFile:
    """A file of a bundle.

    Attributes:
        role: ``disk``, ``kernel``, ``initrd`` or ``nvram``, which is UEFI's variables.
        size: Bytes of the file when it is unpacked; no more are ever unpacked.
        target: A disk's name on its bus; for ``nvram`` the file name of the firmware that wrote it;
            empty for others.
        format: ``qcow2`` for a disk, ``raw`` for others.
        virtual_size: Bytes that the guest sees of a disk; 0 for others.
    """

    role: str
    size: int
    target: str = ""
    format: str = "raw"
    virtual_size: int = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What stands in ``bundle.json``.

    Attributes:
        spec: The machine's spec without secrets, as plain data.
        files: What follows.
        host_key: The guest's public SSH host key; empty where vmctl knows none.
        ssh_user: Whom vmctl logs in as; empty likewise.
        instance_id: cloud-init's instance-id; empty likewise.
    """

    spec: dict[str, Any]
    files: tuple[BundledFile, ...]
    host_key: str = ""
    ssh_user: str = ""
    instance_id: str = ""


def _member(number: int, file: BundledFile) -> str:
    return f"{file.role}-{number}{'.qcow2' if file.format == 'qcow2' else ''}.zst"


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry.tobuf(tarfile.GNU_FORMAT)


def is_bundle(start: bytes) -> bool:
    """Return whether a file that starts with these 512 bytes is a bundle."""
    return start.startswith(_FIRST.encode() + b"\0")


class Writer:
    """Writes a bundle: the manifest at once, then each file in its order, then `finish`."""

    def __init__(self, target: BinaryIO, manifest: Manifest) -> None:
        self._target = target
        self._manifest = manifest
        self._digests: dict[str, str] = {}
        version = VERSION if any(file.role == "nvram" for file in manifest.files) else 1
        document = {"vmctl_bundle": version, **asdict(manifest)}
        self._add(_FIRST, json.dumps(document, indent=1, sort_keys=True).encode())

    def add(self, path: Path, scratch: Path, phase: Phase) -> None:
        """Write the next file.

        Args:
            path: It.
            scratch: A folder that its compressed form fits into.
            phase: Told how far it is.
        """
        import zstandard  # noqa: PLC0415 - few calls need it

        number = len(self._digests) - 1
        file = self._manifest.files[number]
        packed = scratch / "packed"
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        with (
            path.open("rb") as source,
            packed.open("wb") as target,
            compressor.stream_writer(target, size=file.size, closefd=False) as stream,
        ):
            done = 0
            while piece := source.read(_CHUNK):
                done += len(piece)
                phase.update(f"compressing {file.target or file.role}", done / file.size)
                stream.write(piece)
        size = packed.stat().st_size
        self._head(name := _member(number, file), size)
        sha256 = hashlib.sha256()
        with packed.open("rb") as source:
            while piece := source.read(_CHUNK):
                sha256.update(piece)
                self._write(piece)
        packed.unlink()
        self._pad(size)
        self._digests[name] = sha256.hexdigest()

    def finish(self) -> None:
        """Write the digests and the end."""
        document = {"algorithm": "sha256", "digests": self._digests}
        self._add(_LAST, json.dumps(document, indent=1).encode())
        self._write(bytes(2 * _BLOCK))
        with saying_when_full("the bundle", hint=_HINT_FULL):
            self._target.flush()

    def _write(self, content: bytes) -> None:
        # Not the scratch folder that is packed in.
        with saying_when_full("the bundle", hint=_HINT_FULL):
            self._target.write(content)

    def _add(self, name: str, content: bytes) -> None:
        self._head(name, len(content))
        self._write(content)
        self._pad(len(content))
        self._digests[name] = hashlib.sha256(content).hexdigest()

    def _head(self, name: str, size: int) -> None:
        self._write(_header(name, size))

    def _pad(self, size: int) -> None:
        self._write(bytes(-size % _BLOCK))


class Reader:
    """Reads a bundle from its beginning: the manifest at once, the files by `unpack`.

    Attributes:
        manifest: What it says of itself; true only once `unpack` has returned.

    Raises:
        ImageError: It is no bundle, or one of a newer vmctl.
    """

    def __init__(self, source: BinaryIO, *, name: str) -> None:
        self._source = source
        self._name = name
        self._digests: dict[str, str] = {}
        self.manifest = self._manifest(self._document(_FIRST))

    def _refuse(self, what: str, *, hint: str = _HINT) -> NoReturn:
        raise ImageError(f"the bundle {self._name!r} {what}", hint=hint)

    def unpack(self, folder: Path, phase: Phase) -> tuple[Path, ...]:
        """Unpack all files into a folder, under names of our own, and check all that was read.

        Args:
            folder: Where to.
            phase: Told how far it is.

        Returns:
            The path of each file, in the manifest's order.

        Raises:
            ImageError: It was cut off or changed.
            ResourceError: There is no room for them.
        """
        files = self.manifest.files
        paths = []
        for number, file in enumerate(files):
            phase.update(f"unpacking {file.target or file.role}", number / len(files))
            paths.append(folder / f"file-{number}")
            refuse_without_room(folder, file.size, f"the {file.role} of the bundle")
            self._unpack(_member(number, file), file.size, paths[-1])
        seen = dict(self._digests)
        if self._document(_LAST) != {"algorithm": "sha256", "digests": seen}:
            self._refuse("is not what it was: a digest differs")
        while rest := self._source.read(_CHUNK):
            if rest.strip(b"\0"):
                self._refuse("goes on after its end")
        return tuple(paths)

    def _unpack(self, member: str, size: int, path: Path) -> None:
        import zstandard  # noqa: PLC0415 - few calls need it

        packed = _Stream(self._pieces(member, _LARGEST_FILE))
        unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        left = size
        try:
            with (
                path.open("xb") as file,
                unpacker.stream_reader(packed, read_size=_CHUNK) as stream,  # type: ignore[arg-type]
            ):
                while piece := stream.read(_CHUNK):
                    left -= len(piece)
                    if left < 0:
                        self._refuse(f"has more in {member!r} than it says")
                    file.write(piece)
        except zstandard.ZstdError as error:
            raise ImageError(
                f"the bundle {self._name!r} is damaged in {member!r}",
                details=str(error),
                hint=_HINT,
            ) from error
        if left or packed.read(1):
            self._refuse(f"has not in {member!r} what it says")

    def _document(self, name: str) -> Any:
        text = b"".join(self._pieces(name, _LARGEST_JSON))
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ImageError(
                f"the bundle {self._name!r} is damaged in {name!r}", details=str(error), hint=_HINT
            ) from error

    def _pieces(self, name: str, most: int) -> Iterator[bytes]:
        """Read the next member, which has to be the one of that name, and note its digest."""
        header = self._exactly(_BLOCK)
        entry = None
        with suppress(tarfile.TarError, ValueError):
            entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if entry is None or not 0 <= entry.size <= most:
            self._refuse(f"is damaged before {name!r}")
        # Written in one way only, so that nothing in it is left to be understood otherwise.
        if header != _header(name, entry.size):
            self._refuse(f"has {entry.name[:80]!r} where {name!r} belongs")
        sha256 = hashlib.sha256()
        left = entry.size
        while left:
            piece = self._exactly(min(_CHUNK, left))
            sha256.update(piece)
            left -= len(piece)
            yield piece
        if self._exactly(-entry.size % _BLOCK).strip(b"\0"):
            self._refuse(f"is damaged after {name!r}")
        self._digests[name] = sha256.hexdigest()

    def _exactly(self, count: int) -> bytes:
        pieces = []
        while count:
            # A pipe gives what it has.
            piece = self._source.read(count)
            if not piece:
                self._refuse("was cut off")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _manifest(self, document: Any) -> Manifest:
        version = document.get("vmctl_bundle") if isinstance(document, dict) else None
        if not isinstance(version, int):
            self._refuse("is none", hint="`vmctl export NAME FILE --as bundle` writes one")
        if not 1 <= version <= VERSION:
            self._refuse(
                f"is of version {version}", hint="it is from a newer vmctl: import it with that one"
            )
        try:
            return Manifest(
                spec=_expect(document["spec"], dict),
                files=tuple(_file(entry) for entry in _expect(document["files"], list)),
                **{
                    key: _one_line(document[key]) for key in ("host_key", "ssh_user", "instance_id")
                },
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(
                f"the bundle {self._name!r} does not say what it has to",
                details=f"{type(error).__name__}: {error}",
                hint=_HINT,
            ) from error


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:80]!r} is no {kind.__name__}")
    return value


def _one_line(value: Any) -> str:
    text = str(_expect(value, str))
    if len(text) > 4096 or not (text.isprintable() and text.isascii()):
        raise ValueError(f"{text[:80]!r} is not one line of plain text")
    return text


def _file(entry: Any) -> BundledFile:
    file = BundledFile(
        role=_one_line(entry["role"]),
        size=_expect(entry["size"], int),
        target=_one_line(entry["target"]),
        format=_one_line(entry["format"]),
        virtual_size=_expect(entry["virtual_size"], int),
    )
    if (file.role, file.format) not in _KINDS:
        raise ValueError(f"there is no {file.role} in {file.format}")
    most = _LARGEST_NVRAM if file.role == "nvram" else _LARGEST_FILE
    if not 0 < file.size <= most or not 0 <= file.virtual_size <= _LARGEST_FILE:
        raise ValueError(f"{file.size} bytes for {file.virtual_size}")
    return file


class _Stream:
    """Pieces that come, as something to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece
