"""The lists of checksums of each distribution in the catalogue, in the form that it gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.http_server import Server
from vmctl.errors import ImageError
from vmctl.imaging.catalogue import Catalogue, Entry
from vmctl.imaging.checksums import Algorithm
from vmctl.imaging.download import Source, fetch
from vmctl.imaging.http import Limits, file_name

BODY = b"what the distribution built\n" * 100
_OTHER = {"sha256": "b" * 64, "sha512": "b" * 128}

List = Callable[[str, str, str], str]


def _debian(name: str, good: str, bad: str) -> str:
    """SHA512SUMS, by sha512sum; each image is there in several forms."""
    stem = name.removesuffix(".qcow2")
    others = "".join(f"{bad}  {stem}{end}\n" for end in (".json", ".raw", ".tar.xz"))
    return f"{bad}  {name.replace('generic', 'genericcloud')}\n{others}{good}  {name}\n"


def _ubuntu(name: str, good: str, bad: str) -> str:
    """SHA256SUMS, by sha256sum --binary."""
    stem = name.removesuffix(".img")
    return (
        f"{bad} *{stem}-root.tar.xz\n{good} *{name}\n{bad} *{stem}.squashfs\n{bad} *{stem}.vmdk\n"
    )


def _fedora(name: str, good: str, bad: str) -> str:
    """NAME-CHECKSUM, by sha256sum --tag, with the sizes, and signed."""
    other = name.replace("Generic", "UEFI-UKI")
    return (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
        f"# {other}: 510066688 bytes\nSHA256 ({other}) = {bad}\n"
        f"# {name}: 556531712 bytes\nSHA256 ({name}) = {good}\n"
        "-----BEGIN PGP SIGNATURE-----\n\niQIzBAEBCAAdFiEEuc8hjuRwtFM0SJ7H"
        f"\n{bad}\n=AbCd\n-----END PGP SIGNATURE-----\n"
    )


def _centos(name: str, good: str, _bad: str) -> str:
    """IMAGE.SHA256SUM, for the one image."""
    return f"# {name}: 1024196608 bytes\nSHA256 ({name}) = {good}\n"


def _alma(name: str, good: str, bad: str) -> str:
    """CHECKSUM, by sha256sum; the newest is there by its date as well."""
    dated = name.replace("latest", "10.0-20250528.0")
    older = name.replace("latest", "10.0-20250526.0")
    other = name.replace("GenericCloud", "OpenNebula")
    return f"{bad}  {older}\n{good}  {dated}\n{good}  {name}\n{bad}  {other}\n"


def _opensuse(name: str, good: str, _bad: str) -> str:
    """IMAGE.sha256: what the link leads to is named by its build."""
    return f"{good}  {name.replace('-Cloud', '-15.6.0-Cloud-Build16.62')}\n"


def _alpine(_name: str, good: str, _bad: str) -> str:
    """IMAGE.sha512: the digest alone."""
    return f"{good}\n"


def _arch(name: str, good: str, _bad: str) -> str:
    """IMAGE.SHA256, by sha256sum."""
    return f"{good}  {name}\n"


def _freebsd(name: str, good: str, bad: str) -> str:
    """CHECKSUM.SHA512, by sha512 of BSD; each image is there raw and with another file system."""
    others = (name.replace("-ufs", "-zfs"), name.replace(".qcow2", ".raw"), name[: -len(".xz")])
    lines = [f"SHA512 ({other}) = {bad}\n" for other in others]
    return "".join([*lines[:2], f"SHA512 ({name}) = {good}\n", lines[2]])


STYLES: dict[str, List] = {
    "cloud.debian.org": _debian,
    "cloud-images.ubuntu.com": _ubuntu,
    "dl.fedoraproject.org": _fedora,
    "cloud.centos.org": _centos,
    "repo.almalinux.org": _alma,
    # With a list for each image, as CentOS.
    "dl.rockylinux.org": _centos,
    "download.opensuse.org": _opensuse,
    "dl-cdn.alpinelinux.org": _alpine,
    "geo.mirror.pkgbuild.com": _arch,
    "download.freebsd.org": _freebsd,
}
ENTRIES = Catalogue([]).entries(None)


def published(entry: Entry, server: Server, body: bytes) -> Source:
    """Serve an image and its list under the names that they have at the distribution."""
    assert entry.checksum is not None
    kind: Algorithm = entry.checksum.kind
    style = STYLES[urlsplit(entry.checksum.url).hostname or ""]
    image, listed = (urlsplit(url).path for url in (entry.url, entry.checksum.url))
    text = style(file_name(entry.url), hashlib.new(kind, BODY).hexdigest(), _OTHER[kind])
    server.page(image, body)
    server.page(listed, text.encode())
    return replace(entry.source, url=server.url(image), checksum_url=server.url(listed))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.name}-{entry.arch}")
def test_its_own_line_is_the_one_that_counts(
    entry: Entry, server: Server, cache: Path, limits: Limits
) -> None:
    got = fetch(published(entry, server, BODY), cache=cache, limits=limits)
    assert entry.checksum is not None
    assert got.verified_by.startswith(f"the {entry.checksum.kind} in {server.url('/')}")


@pytest.mark.parametrize("host", STYLES)
def test_another_image_is_refused(host: str, server: Server, cache: Path, limits: Limits) -> None:
    entry = next(one for one in ENTRIES if one.checksum and f"//{host}/" in one.checksum.url)
    with pytest.raises(ImageError, match="checksum"):
        fetch(published(entry, server, BODY[:-1]), cache=cache, limits=limits)
