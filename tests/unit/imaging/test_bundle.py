"""Bundles: written and read as a stream, and refused when anything in them is not as it was."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from vmctl.errors import ImageError, ResourceError
from vmctl.imaging.bundle import BundledFile, Manifest, Reader, Writer, _header, is_bundle
from vmctl.progress import Phase

PHASE = Phase("m", "import", None)
CONTENTS = (os.urandom(300_000) + bytes(5_000_000), b"kernel" * 1000)
MANIFEST = Manifest(
    spec={"name": "web"},
    files=(
        BundledFile(
            role="disk", size=len(CONTENTS[0]), target="vda", format="qcow2", virtual_size=1 << 30
        ),
        BundledFile(role="kernel", size=len(CONTENTS[1])),
    ),
    host_key="ssh-ed25519 AAAA",
    ssh_user="admin",
    instance_id="i-1",
)


NVRAM = BundledFile(role="nvram", size=540672, target="OVMF_CODE_4M.fd")


def write(target: BinaryIO, folder: Path, manifest: Manifest = MANIFEST) -> None:
    writer = Writer(target, manifest)
    for content in CONTENTS:
        (folder / "content").write_bytes(content)
        writer.add(folder / "content", folder, PHASE)
    writer.finish()
    (folder / "content").unlink()


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    target = io.BytesIO()
    write(target, tmp_path)
    return target.getvalue()


def test_only_what_has_variables_of_uefi_is_of_the_second_version(tmp_path: Path) -> None:
    for files, version in ((MANIFEST.files, 1), ((*MANIFEST.files, NVRAM), 2)):
        target = io.BytesIO()
        Writer(target, Manifest(spec={}, files=files))
        assert f'"vmctl_bundle": {version}'.encode() in target.getvalue()
        target.seek(0)
        assert Reader(target, name="x.vmctl").manifest.files == files


@pytest.mark.parametrize("size", [0, (64 << 20) + 1])
def test_variables_of_uefi_are_no_larger_than_a_flash(size: int) -> None:
    target = io.BytesIO()
    Writer(target, Manifest(spec={}, files=(replace(NVRAM, size=size),)))
    target.seek(0)
    with pytest.raises(ImageError, match="does not say what it has to"):
        Reader(target, name="x.vmctl")


def unpack(source: BinaryIO, folder: Path) -> tuple[Manifest, list[bytes]]:
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    reader = Reader(source, name="x.vmctl")
    return reader.manifest, [path.read_bytes() for path in reader.unpack(folder, PHASE)]


def test_there_and_back(whole: bytes, tmp_path: Path) -> None:
    assert is_bundle(whole[:512])
    assert unpack(io.BytesIO(whole), tmp_path / "out") == (MANIFEST, list(CONTENTS))
    # Zeros take no room, and any tar can list it.
    assert len(whole) < 310_000 + 20_000
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert tar.getnames() == [
            "bundle.json", "disk-0.qcow2.zst", "kernel-1.zst", "digests.json",
        ]  # fmt: skip


def test_through_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as source:

        def send() -> None:
            with os.fdopen(writing, "wb", buffering=0) as target:
                write(target, tmp_path)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            assert unpack(source, tmp_path / "out")[1] == list(CONTENTS)
        finally:
            thread.join()


@pytest.mark.parametrize("buffering", [0, 1 << 20])
def test_what_it_is_written_to_fills_up(tmp_path: Path, buffering: int) -> None:
    with (
        suppress(OSError),
        Path("/dev/full").open("wb", buffering=buffering) as target,
        pytest.raises(ResourceError, match="no room for the bundle") as full,
    ):
        write(target, tmp_path)
    # More room for what is on its way would not help.
    assert "TMPDIR" not in full.value.hint
    assert "where it is written to" in full.value.hint


def test_any_changed_bit_is_found(whole: bytes, tmp_path: Path) -> None:
    chance = random.Random(5)  # noqa: S311 - the same ones every time
    # All but the end, whose zeros nobody needs.
    end = len(whole) - 1024
    for place in [*range(0, 200, 7), *(chance.randrange(end) for _ in range(150))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << chance.randrange(8)
        with pytest.raises(ImageError) as caught:
            unpack(io.BytesIO(bytes(changed)), tmp_path / "out")
        assert caught.value.hint


def test_any_cut_is_found(whole: bytes, tmp_path: Path) -> None:
    end = len(whole) - 1024
    for length in [0, 1, 511, 512, 513, *range(600, end, 20_011), end - 513]:
        with pytest.raises(ImageError, match="was cut off|is damaged"):
            unpack(io.BytesIO(whole[:length]), tmp_path / "out")


def test_more_after_its_end(whole: bytes, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="goes on after its end"):
        unpack(io.BytesIO(whole + b"more"), tmp_path / "out")


def test_a_file_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    files = (BundledFile(role="disk", size=1 << 20, format="qcow2"), MANIFEST.files[1])
    target = io.BytesIO()
    writer = Writer(target, Manifest(spec={}, files=files))
    (tmp_path / "bomb").write_bytes(bytes(100 << 20))
    # The writer holds to the size that it was told, so the bomb is put in by hand.
    import zstandard

    packed = zstandard.ZstdCompressor().compress(bytes(100 << 20))
    writer._head("disk-0.qcow2.zst", len(packed))
    target.write(packed)
    writer._pad(len(packed))
    target.seek(0)
    with pytest.raises(ImageError, match="has more in 'disk-0.qcow2.zst' than it says"):
        unpack(target, tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 1 << 20


def document(**changes: Any) -> bytes:
    good = {
        "vmctl_bundle": 1, "spec": {}, "host_key": "", "ssh_user": "", "instance_id": "",
        "files": [{"role": "disk", "size": 5, "target": "vda", "format": "qcow2",
                   "virtual_size": 5}],
    }  # fmt: skip
    return json.dumps(good | changes).encode()


FILE = {"role": "disk", "size": 5, "target": "vda", "format": "qcow2", "virtual_size": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[]", "is none"),
        (document(vmctl_bundle=3), "is of version 3"),
        (document(vmctl_bundle="1"), "is none"),
        (document(spec=[]), "does not say what it has to"),
        (document(files={}), "does not say what it has to"),
        (document(files=[{}]), "does not say what it has to"),
        (document(files=[FILE | {"role": "../../etc/passwd"}]), "does not say what it has to"),
        (document(files=[FILE | {"format": "raw"}]), "does not say what it has to"),
        (document(files=[FILE | {"size": -1}]), "does not say what it has to"),
        (document(files=[FILE | {"size": 1 << 60}]), "does not say what it has to"),
        (document(files=[FILE | {"size": True}]), "does not say what it has to"),
        (document(host_key="a\nb"), "does not say what it has to"),
        (document(host_key=None), "does not say what it has to"),
    ],
)
def test_bad_manifests(text: bytes, message: str) -> None:
    header = _header("bundle.json", len(text))
    with pytest.raises(ImageError, match=message):
        Reader(io.BytesIO(header + text + bytes(-len(text) % 512)), name="x")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME])
def test_anything_but_plain_files(kind: bytes) -> None:
    entry = tarfile.TarInfo("bundle.json")
    entry.type = kind
    with pytest.raises(ImageError, match="belongs"):
        Reader(io.BytesIO(entry.tobuf(tarfile.GNU_FORMAT)), name="x")
