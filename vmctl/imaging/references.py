"""What people write to mean an image: a name, a digest, a path, or a URL with its checksum."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urldefrag

from vmctl.errors import ImageError, UsageError

if TYPE_CHECKING:
    from vmctl.imaging.download import Source

__all__ = ["checked_name", "digest_in", "is_name", "is_url", "name_of", "source_of"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"(?:sha256[:-])?([0-9a-f]{8,64})")


def is_url(reference: str) -> bool:
    """Return whether it is a URL, and not a name or a path."""
    return "://" in reference


def is_name(reference: str) -> bool:
    """Return whether it may be an image's name; it may be a path as well."""
    return _NAME.fullmatch(reference) is not None


def digest_in(reference: str) -> str | None:
    """Return the beginning of a SHA-256 that it gives, or None."""
    match = _DIGEST.fullmatch(reference)
    return None if match is None else match[1]


def checked_name(name: str) -> str:
    """Return a name that an image is going to have.

    Raises:
        UsageError: It can't be one.
    """
    if not is_name(name) or digest_in(name):
        raise UsageError(
            f"{name[:80]!r} can't be an image's name",
            hint="a name has letters, digits, dots, dashes and underscores, and does not look like "
            "a digest; give one by --name",
        )
    return name


def name_of(place: str) -> str:
    """Return a name from the end of a URL or path: ``debian-12.qcow2.xz`` is ``debian-12``."""
    name = re.split(r"[?#]", place, maxsplit=1)[0].rstrip("/").rpartition("/")[2]
    while re.search(r"\.(qcow2|img|raw|vmdk|vdi|vhd|vhdx|xz|gz|bz2|zst)$", name, re.IGNORECASE):
        name = name.rpartition(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-_")[:64]


def source_of(url: str, checksum: str | None, *, unverified: bool = False) -> Source:
    """Return what to fetch for a URL, whose fragment may hold the checksum: ``#sha256=...``.

    Args:
        url: It.
        checksum: Its checksum, where the fragment has none.
        unverified: That it is wanted although nothing says what it has to be.

    Raises:
        ImageError: There is no checksum.
        UsageError: There are two, or one that is none.
    """
    # What fetches is loaded when something is fetched: TLS and HTTP take their time.
    from vmctl.imaging.checksums import Checksum  # noqa: PLC0415
    from vmctl.imaging.download import Source  # noqa: PLC0415

    plain, fragment = urldefrag(url)
    if fragment:
        kind, equals, digits = fragment.partition("=")
        if not equals or checksum is not None:
            raise UsageError(
                "what follows the # of an image's URL is no checksum, or there are two",
                hint="write URL#sha256=DIGITS, or give the checksum by --sha256",
            )
        checksum = f"{kind}:{digits}"
    if checksum is None and not unverified:
        raise ImageError(
            "an image from a URL needs a checksum, which says what it has to be",
            hint="give it by --sha256, or as URL#sha256=DIGITS; where there is none: --unverified",
        )
    return Source(
        url=plain,
        checksum=None if checksum is None else Checksum.parse(checksum),
        unverified=unverified,
    )
