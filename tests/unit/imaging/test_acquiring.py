"""From a server to an image that was looked at: what is warned of, refused, and left behind."""

from __future__ import annotations

import gzip
import hashlib
import logging
import struct
from pathlib import Path

import pytest

from tests.http_server import Server
from vmctl.errors import ImageError
from vmctl.imaging.acquiring import acquire
from vmctl.imaging.checksums import Checksum
from vmctl.imaging.download import Source


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vmctl"


def qcow2(*, backing: int = 0) -> bytes:
    fields = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, backing, 11, 16, 1 << 20)
    content = bytearray(fields.ljust(2048, b"\0"))
    if backing:
        content[backing : backing + 11] = b"/etc/shadow"
    return bytes(content)


def verified(server: Server, path: str, body: bytes) -> Source:
    server.page(path, body)
    digest = hashlib.sha256(body).hexdigest()
    return Source(url=server.url(path), checksum=Checksum("sha256", digest))


def images_in(cache: Path) -> list[str]:
    folders = (cache / "downloads" / "files", cache / "unpacked")
    found = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
    return [path.name for path in found if path.suffix != ".lock"]


def test_what_nothing_verifies_is_warned_of(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vmctl"):
        acquire(verified(server, "/known.qcow2", qcow2()))
        assert caplog.messages == []
        acquire(Source(url=server.url("/known.qcow2"), unverified=True))
    (said,) = caplog.messages
    assert (
        said == f"nothing says what {server.url('/known.qcow2')} has to give: it was not verified"
    )


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_refused_does_not_stay_in_the_cache(
    server: Server, own_cache: Path, packed: bool
) -> None:
    def body(content: bytes) -> bytes:
        return gzip.compress(content) if packed else content

    with pytest.raises(ImageError, match="not fit to be used") as caught:
        acquire(verified(server, "/bad", body(qcow2(backing=1024))))
    assert "names a backing file" in caught.value.details
    assert images_in(own_cache) == []
    image, _fetched = acquire(verified(server, "/good", body(qcow2())))
    assert image.path.read_bytes() == qcow2()
    assert len(images_in(own_cache)) == 1 + packed


def test_a_bomb_is_refused_by_the_bounds_that_hold(server: Server, own_cache: Path) -> None:
    # Of 1 GiB nothing is said yet; what comes then is a thousand times as large as it was sent.
    bomb = gzip.compress(bytes(64 << 20)) * 17
    assert len(bomb) < 2 << 20
    with pytest.raises(ImageError, match="unfold"):
        acquire(verified(server, "/bomb.gz", bomb))
    assert images_in(own_cache) == []
