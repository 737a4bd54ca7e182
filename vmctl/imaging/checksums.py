"""Checksums: as people write them, and as distributions publish them in files."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vmctl.errors import ImageError, UsageError
from vmctl.progress import Phase

__all__ = ["Algorithm", "Checksum", "digests_of", "find_in"]

Algorithm = Literal["sha256", "sha512"]

_LENGTHS: dict[int, Algorithm] = {64: "sha256", 128: "sha512"}
_CHUNK = 1024 * 1024
_HEX = re.compile(r"[0-9a-fA-F]+")
# SHA256 (file) = 0123...
_BSD = re.compile(r"SHA-?(256|512) ?\((.+)\) ?= ?([0-9a-fA-F]+)")
# 0123...  file, with a * before the name of a file that was read as binary, and a \ before the
# line when a character in the name is escaped.
_GNU = re.compile(r"\\?([0-9a-fA-F]{64}|[0-9a-fA-F]{128})[ \t]+\*?(\S.*)")


@dataclass(frozen=True)
class Checksum:
    """A digest that a file has to have.

    Attributes:
        algorithm: ``sha256`` or ``sha512``.
        value: The digest, in lower-case hexadecimal.
    """

    algorithm: Algorithm
    value: str

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Read ``sha256:0123...``, ``sha512:0123...``, or the digits alone.

        Raises:
            UsageError: It is none of these.
        """
        name, _, digits = text.strip().rpartition(":")
        algorithm = _LENGTHS.get(len(digits))
        if algorithm is None or not _HEX.fullmatch(digits) or name.lower() not in {"", algorithm}:
            raise UsageError(
                f"{text.strip()[:80]!r} is not a SHA-256 or SHA-512 checksum",
                hint="give 64 hexadecimal digits (SHA-256) or 128 of them (SHA-512)",
            )
        return cls(algorithm, digits.lower())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"

    def fits(self, digests: dict[Algorithm, str]) -> bool:
        """Whether a file with these digests is the right one."""
        return hmac.compare_digest(digests.get(self.algorithm, ""), self.value)


def digests_of(
    path: Path, *algorithms: Algorithm, phase: Phase | None = None
) -> dict[Algorithm, str]:
    """Read a file once and return its digests, in lower-case hexadecimal.

    Raises:
        OSError: It can't be read.
    """
    running = {name: hashlib.new(name) for name in dict.fromkeys(algorithms)}
    done = 0
    with path.open("rb", buffering=0) as handle:
        size = max(path.stat().st_size, 1)
        while piece := handle.read(_CHUNK):
            for one in running.values():
                one.update(piece)
            done += len(piece)
            if phase is not None:
                phase.update("computing its digest", min(done / size, 1.0))
    return {name: one.hexdigest() for name, one in running.items()}


def find_in(
    text: str, file_name: str, *, source: str, kind: Algorithm | None = None, own: bool = False
) -> Checksum:
    """Find one file's checksum in a published list.

    Known are the lists that ``sha256sum`` and ``sha512sum`` write, with or without ``--tag``, a
    PGP signature around them, and a file that has nothing but one digest.

    Args:
        text: The list.
        file_name: The file's name, without folders.
        source: What to call the list in errors.
        kind: The one algorithm to accept; None: the strongest that is there.
        own: Whether the list was published for this one file (``FILE.sha256``). Then its only
            digest counts, whatever name it gives: some distributions write the build's name there.

    Raises:
        ImageError: The file is not in the list, or is there with different digests.
    """
    named, every = _entries(text, kind)
    found = {checksum for name, checksum in named if _same_file(name, file_name)}
    if not found and (own or not named) and len(every) == 1:
        found = set(every)
    strongest = [one for one in found if one.algorithm == "sha512"] or list(found)
    if len(strongest) != 1:
        what = f"two different checksums of {file_name}" if strongest else "no checksum of it"
        raise ImageError(
            f"can't verify {file_name}: {source} has {what}",
            details=f"the list has {len(every)} checksums" + (f" of {kind}" if kind else ""),
            hint="see whether the image was renamed there; or give its checksum yourself",
        )
    return strongest[0]


def _entries(text: str, kind: Algorithm | None) -> tuple[list[tuple[str, Checksum]], set[Checksum]]:
    """Return (name, checksum) of the lines that name a file, and all checksums."""
    named: list[tuple[str, Checksum]] = []
    every: set[Checksum] = set()
    for raw in text.splitlines():
        line = raw.strip().removeprefix("\ufeff")
        name, digits, said = "", line, None
        if match := _BSD.fullmatch(line):
            said, name, digits = f"sha{match[1]}", match[2], match[3]
        elif match := _GNU.fullmatch(line):
            digits, name = match[1], match[2]
        algorithm = _LENGTHS.get(len(digits))
        if algorithm is None or not _HEX.fullmatch(digits) or said not in {None, algorithm}:
            continue
        if kind is not None and algorithm != kind:
            continue
        checksum = Checksum(algorithm, digits.lower())
        every.add(checksum)
        if name:
            named.append((name, checksum))
    return named, every


def _same_file(listed: str, name: str) -> bool:
    # Some lists are made a folder further up: ./file, images/file.
    return listed == name or listed.rpartition("/")[2] == name
