"""Checksums, as people write them and as distributions publish them."""

from __future__ import annotations

import pytest

from vmctl.errors import ImageError, UsageError
from vmctl.imaging.checksums import Checksum, find_in

A, B, C = "a" * 64, "b" * 64, "c" * 128
SIGNED = f"""-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

# disk.qcow2: 4711 bytes
SHA256 (disk.qcow2) = {A}
SHA256 (other.qcow2) = {B}
-----BEGIN PGP SIGNATURE-----
{"c" * 64}
-----END PGP SIGNATURE-----
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"{A}  disk.qcow2\n{B}  other.qcow2\n", A),
        (f"{A} *disk.qcow2\r\n{B} *other.qcow2\r\n", A),
        (f"{A}  ./images/disk.qcow2\n", A),
        (f"{B}  disk.qcow2.xz\n{A}  disk.qcow2\n", A),
        (SIGNED, A),
        (f"SHA512 (disk.qcow2) = {C}\nSHA256 (disk.qcow2) = {A}\n", C),
        (f"{A.upper()}\n", A),
    ],
    ids=["gnu", "binary", "folder", "prefix", "bsd signed", "strongest", "digest alone"],
)
def test_found_in_a_list(text: str, value: str) -> None:
    assert find_in(text, "disk.qcow2", source="the list").value == value


def test_a_list_of_one_file_may_have_its_other_name() -> None:
    text = f"{A}  disk-Build16.62.qcow2\n"
    assert find_in(text, "disk.qcow2", source="it", own=True).value == A
    with pytest.raises(ImageError, match="no checksum of it"):
        find_in(text, "disk.qcow2", source="it")


def test_only_the_kind_that_is_wanted_counts() -> None:
    text = f"{A}  disk.qcow2\n{C}  disk.qcow2\n"
    assert find_in(text, "disk.qcow2", source="it", kind="sha256").value == A
    with pytest.raises(ImageError):
        find_in(f"{A}  disk.qcow2\n", "disk.qcow2", source="it", kind="sha512")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>Not found</html>",
        f"{B}  other.qcow2\n",
        f"{A}  disk.qcow2\n{B}  disk.qcow2\n",
        f"{A}\n{B}\n",
        f"{A[:-1]}  disk.qcow2\n",
        f"SHA256 (disk.qcow2) = {C}\n",
    ],
    ids=["empty", "html", "other", "two", "two alone", "short", "wrong kind"],
)
def test_refused(text: str) -> None:
    with pytest.raises(ImageError, match=r"can't verify disk\.qcow2: the list has"):
        find_in(text, "disk.qcow2", source="the list")


def test_written_by_people() -> None:
    assert Checksum.parse(f" sha256:{A.upper()} ") == Checksum("sha256", A)
    assert Checksum.parse(C) == Checksum("sha512", C)
    for bad in ("", "md5:" + "a" * 32, f"sha512:{A}", "g" * 64):
        with pytest.raises(UsageError, match="is not a SHA-256 or SHA-512 checksum"):
            Checksum.parse(bad)
