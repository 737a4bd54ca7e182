"""Sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.spec import Size


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("512MiB", 512 * 1024**2),
        ("2 GiB", 2 * 1024**3),
        ("1.5TiB", 3 * 1024**4 // 2),
        ("20GB", 20 * 1000**3),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1024B", 1024),
        ("1PiB", 1024**5),
    ],
)
def test_text_is_a_size(text: str, number: int) -> None:
    assert int(Size(text)) == number


@pytest.mark.parametrize(
    "text", ["", "GiB", "1", "1G", "1e3MiB", "\u0661GiB", "-1MiB", "0B", "1" * 99]
)
def test_text_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Size(text)


@given(st.integers(min_value=1, max_value=1024**5))
def test_a_size_is_written_so_that_it_is_read_back(number: int) -> None:
    size = Size(number)
    assert Size(str(size)) == size == number
    assert f"{size}" == str(size)
    assert repr(size) == f"Size('{size}')"


@given(st.text())
def test_no_text_is_anything_but_a_size_or_a_value_error(text: str) -> None:
    try:
        assert 0 < int(Size(text)) <= 1024**5
    except ValueError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right
