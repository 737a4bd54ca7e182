"""The catalogue: images that are known by name, built in and the user's own."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, StringConstraints, ValidationError, field_validator

from vmctl.errors import NotFoundError, SpecError, SpecProblem
from vmctl.imaging.checksums import Algorithm, Checksum
from vmctl.imaging.download import Source
from vmctl.spec.base import SpecModel
from vmctl.spec.problems import spec_error_from
from vmctl.spec.yaml_text import parse_spec

__all__ = ["Catalogue", "ChecksumFile", "Entry", "Listing", "catalogue_files"]

_BUILT_IN = Path(__file__).with_name("catalogue.yaml")
_LARGEST_FILE = 1024**2
_HINT = (
    "an entry looks like this: images: [{name: ours, arch: x86_64, url: https://..., "
    "sha256: ...}]; docs/how-to/own-images.md explains the fields"
)
_OTHER_NAMES = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}

Arch = Literal["x86_64", "aarch64"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]


def _http(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not url.isprintable():
        raise ValueError("is not a URL that begins with https:// or http://")
    return url


class ChecksumFile(SpecModel):
    """A list of checksums that is published beside an image.

    Attributes:
        url: Where it is.
        kind: The algorithm whose digests in it count.
    """

    url: str
    kind: Algorithm

    _url = field_validator("url")(_http)


class Entry(SpecModel):
    """An image, for one architecture.

    How it is verified is said in exactly one way: ``checksum``, ``sha256``, ``sha512``, or in so
    many words that it isn't: ``unverified: true``.

    Attributes:
        name: What it is called by.
        arch: The guest's architecture, by libvirt's names.
        url: Where it is. It may be compressed with xz, gzip, bzip2 or zstd.
        description: For people.
        aliases: Other names for it; a name goes before an alias.
        checksum: The list of checksums that it is in.
        sha256: Its digest, in hexadecimal.
        sha512: Its digest, in hexadecimal.
        unverified: That nothing says whether what arrives is the right thing.
        user: Who its own cloud-init configuration logs in.
        firmware: What it boots with at least: an image for ``bios`` may boot with UEFI too.
        os: The operating system, by libosinfo's short id.
    """

    name: Name
    arch: Arch = "x86_64"
    url: str
    description: str = ""
    aliases: tuple[Name, ...] = ()
    checksum: ChecksumFile | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    sha512: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{128}$")
    unverified: bool = False
    user: str | None = Field(default=None, min_length=1)
    firmware: Literal["bios", "uefi"] = "bios"
    os: str | None = None

    _url = field_validator("url")(_http)

    @property
    def source(self) -> Source:
        """What `vmctl.imaging.download.fetch` needs."""
        text = self.sha512 or self.sha256
        return Source(
            url=self.url,
            checksum=Checksum.parse(text) if text else None,
            checksum_url=self.checksum.url if self.checksum else None,
            checksum_kind=self.checksum.kind if self.checksum else None,
            unverified=self.unverified,
        )

    def _problems(self) -> list[SpecProblem]:
        ways = (self.checksum, self.sha256, self.sha512, self.unverified or None)
        if (given := sum(way is not None for way in ways)) == 1:
            if self.checksum and self.url.startswith("https:") > self.checksum.url.startswith(
                "https:"
            ):
                what = "is fetched over http, where anybody on the way can change it"
                return [SpecProblem("checksum.url", what)]
            return []
        if given:
            return [SpecProblem("", "has more than one of checksum, sha256, sha512, unverified")]
        what = "has no checksum, sha256 or sha512; say unverified: true if there is none"
        return [SpecProblem("", what)]


class Listing(SpecModel):
    """A file of the catalogue."""

    images: tuple[Entry, ...]

    def _problems(self) -> list[SpecProblem]:
        seen: set[tuple[str, str]] = set()
        problems = []
        for number, entry in enumerate(self.images):
            if (entry.name, entry.arch) in seen:
                what = f"{entry.name} for {entry.arch} is there twice"
                problems.append(SpecProblem(f"images[{number}].name", what))
            seen.add((entry.name, entry.arch))
        return problems


class Catalogue:
    """Every image that is known by name.

    Args:
        files: Files of the user's own, in their order: an entry takes the place of an earlier one
            of the same name and architecture. None: those that `catalogue_files` finds.

    Raises:
        SpecError: A file is not valid; the error names the file and the field.
    """

    def __init__(self, files: Iterable[Path] | None = None) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        own = catalogue_files() if files is None else tuple(files)
        for listing in (_built_in(), *map(_read, own)):
            for entry in listing.images:
                # The last one written comes last, so that its aliases win.
                self._entries.pop((entry.name, entry.arch), None)
                self._entries[entry.name, entry.arch] = entry

    def entries(self, arch: str | None = None) -> tuple[Entry, ...]:
        """Return all entries, or those for an architecture, by name."""
        wanted = _OTHER_NAMES.get(arch, arch) if arch else None
        found = (entry for entry in self._entries.values() if wanted in {None, entry.arch})
        return tuple(sorted(found, key=lambda entry: (entry.name, entry.arch)))

    def find(self, name: str, arch: str = "x86_64") -> Entry:
        """Return the entry with this name, else the newest that has it as an alias.

        Args:
            name: A name or an alias.
            arch: The guest's architecture; ``amd64`` and ``arm64`` are understood as well.

        Raises:
            NotFoundError: There is none; the hint has names that are close.
        """
        wanted = _OTHER_NAMES.get(arch, arch)
        if found := self._entries.get((name, wanted)):
            return found
        for entry in reversed(self._entries.values()):
            if entry.arch == wanted and name in entry.aliases:
                return entry
        raise NotFoundError(
            f"there is no image {name!r} for {wanted} in the catalogue",
            hint=self._hint(name, wanted),
        )

    def _hint(self, name: str, arch: str) -> str:
        others = [
            entry.arch for entry in self._entries.values() if name in {entry.name, *entry.aliases}
        ]
        if others:
            return f"it is there for {', '.join(dict.fromkeys(others))}"
        here = [entry for entry in self._entries.values() if entry.arch == arch]
        names = {word for entry in here for word in (entry.name, *entry.aliases)}
        near = difflib.get_close_matches(name, sorted(names), n=3)
        # What begins with the same word is closer than what has similar letters.
        near += sorted(word for word in names if word.startswith(name.partition("-")[0] + "-"))
        near = list(dict.fromkeys(near))[:5]
        return f"did you mean {' or '.join(near)}?" if near else "`vmctl image list` has all names"


def catalogue_files() -> tuple[Path, ...]:
    """Return the user's own files: those of the machine, then those of the user.

    In each folder ``images.yaml`` comes first, then ``images.d/*.yaml`` by name.
    """
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    found: list[Path] = []
    for folder in (Path("/etc/vmctl"), Path(config).expanduser() / "vmctl"):
        single = folder / "images.yaml"
        found += [single] if single.is_file() else []
        found += sorted(folder.glob("images.d/*.yaml"))
    return tuple(found)


@cache
def _built_in() -> Listing:
    return _read(_BUILT_IN)


def _read(path: Path) -> Listing:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SpecError(f"{path} is larger than 1 MiB and no list of images", hint=_HINT)
        data = parse_spec(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path} can't be read: {error.strerror or error}", hint=_HINT) from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not a text file in UTF-8", hint=_HINT) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SpecError(f"{path} is not valid YAML: {reason}", hint=_HINT) from None
    try:
        return Listing.__pydantic_validator__.validate_python(data)  # type: ignore[no-any-return]
    except (ValidationError, UnicodeEncodeError) as error:
        found = spec_error_from(error, Listing, source=str(path))
        found.hint = _HINT
        raise found from None
