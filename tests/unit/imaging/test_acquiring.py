"""From a server to an image that was looked at: what is warned of, refused, and left behind."""

from __future__ import annotations

import functools
import gzip
import hashlib
import logging
import random
import struct
import subprocess
import tempfile
from collections.abc import Callable
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


@functools.cache
def qcow2() -> bytes:
    """An image with a few clusters of data."""
    with tempfile.TemporaryDirectory() as folder:
        raw, made = Path(folder) / "raw", Path(folder) / "made"
        raw.write_bytes(random.Random(1).randbytes(512 << 10))  # noqa: S311
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
        subprocess.run([*command, str(raw), str(made)], check=True)
        return made.read_bytes()


def overlay() -> bytes:
    content = bytearray(qcow2())
    content[8:20] = struct.pack(">QI", 1024, 11)
    content[1024:1035] = b"/etc/shadow"
    return bytes(content)


def verified(server: Server, path: str, body: bytes) -> Source:
    server.page(path, body)
    digest = hashlib.sha256(body).hexdigest()
    return Source(url=server.url(path), checksum=Checksum("sha256", digest))


def images_in(cache: Path) -> list[str]:
    folders = [cache / name for name in ("downloads/files", "unpacked", "converted")]
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


BAD: dict[str, Callable[[], bytes]] = {
    "names a backing file": overlay,
    # Its header is right; what its tables lead to isn't there.
    "was cut off, or damaged": lambda: qcow2()[: -(128 << 10)],
}


@pytest.mark.parametrize("said", BAD)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_refused_does_not_stay_in_the_cache(
    server: Server, own_cache: Path, packed: bool, said: str
) -> None:
    def body(content: bytes) -> bytes:
        return gzip.compress(content) if packed else content

    with pytest.raises(ImageError, match="not fit to be used") as caught:
        acquire(verified(server, "/bad", body(BAD[said]())))
    assert said in caught.value.details
    assert images_in(own_cache) == []
    assert not (own_cache / "whole").exists()
    image, _fetched = acquire(verified(server, "/good", body(qcow2())))
    assert image.path.read_bytes() == qcow2()
    assert len(images_in(own_cache)) == 1 + packed


def test_an_image_of_another_format_is_converted_or_does_not_stay(
    server: Server, own_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "good").write_bytes(qcow2())
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "vmdk"]
    subprocess.run([*command, str(tmp_path / "good"), str(tmp_path / "vmdk")], check=True)
    whole = (tmp_path / "vmdk").read_bytes()
    with pytest.raises(ImageError, match="not fit to be used") as caught:
        acquire(verified(server, "/bad.vmdk", whole[: -(128 << 10)]))
    assert "was cut off, or damaged" in caught.value.details
    assert images_in(own_cache) == []
    image, _fetched = acquire(verified(server, "/good.vmdk", whole))
    assert (image.format, image.virtual_size) == ("qcow2", 512 << 10)
