"""Sizes: a number of bytes that is written with its unit."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

__all__ = ["KIB", "LARGEST_SIZE", "Size"]

KIB = 1024
LARGEST_SIZE = 1024**5
"""1 PiB: nothing that a person means is larger, so a larger size is a slip."""

_UNITS = {
    "B": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
    "PiB": 1024**5,
    "KB": 1000,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "PB": 1000**5,
}
_SHORT = {"K": "KiB", "M": "MiB", "G": "GiB", "T": "TiB", "P": "PiB"}
_WRITTEN = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", re.ASCII)
_PATTERN = r"^[0-9]+(\.[0-9]+)? ?(B|[KMGTP]iB|[KkMGTP]B)$"
_LONGEST_TEXT = 40


class Size(int):
    """A number of bytes.

    In a spec it is text with a unit: ``512MiB``, ``20GiB``, ``1.5TiB`` (powers of 1024) or ``20GB``
    (powers of 1000). A bare number is refused there, for nobody remembers whose unit it would be.
    In Python, ``Size("2GiB")`` and ``Size(2 * 1024**3)`` are the same size.

    Raises:
        ValueError: The text is not a size, or the size is not above 0 and at most 1 PiB.
    """

    def __new__(cls, value: int | str) -> Size:  # noqa: D102 - the class says it
        number = _parse(value) if isinstance(value, str) else int(value)
        if number <= 0:
            raise ValueError("a size is more than 0")
        if number > LARGEST_SIZE:
            raise ValueError(f"{value} is more than 1 PiB, which can't be meant")
        return super().__new__(cls, number)

    @property
    def kib(self) -> int:
        """The size in KiB, rounded down."""
        return int(self) // KIB

    def __str__(self) -> str:
        for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
            if int(self) % _UNITS[unit] == 0:
                return f"{int(self) // _UNITS[unit]}{unit}"
        return f"{int(self)}B"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        return f"Size({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by `_validate`, write as text."""
        return core_schema.no_info_plain_validator_function(
            _validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the text form."""
        return {"type": "string", "pattern": _PATTERN, "examples": ["512MiB", "20GiB"]}


def _validate(value: object) -> Size:
    if isinstance(value, Size):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        what = f"{value} has no unit; write {_suggestion(value)}, for example"
        raise ValueError(what)  # noqa: TRY004 - pydantic wants a ValueError
    if not isinstance(value, str):
        raise ValueError("a size is text such as 2GiB")  # noqa: TRY004 - likewise
    return Size(value)


def _suggestion(value: float) -> str:
    return f"{value}GiB" if 0 < value < 256 else f"{value}MiB" if value < 1024**2 else f"{value}B"


def _parse(text: str) -> int:
    shown = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "..."
    match = _WRITTEN.fullmatch(text.strip()) if len(text) <= _LONGEST_TEXT else None
    if match is None:
        raise ValueError(f"{shown!r} is not a size; write it like 512MiB or 20GiB")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"{shown} has no unit; write {shown}MiB or {shown}GiB, for example")
    if unit.upper() in _SHORT:
        meant = _SHORT[unit.upper()]
        raise ValueError(
            f"{shown!r} can mean two sizes; write {number}{meant} (1024) "
            f"or {number}{meant.replace('i', '')} (1000)"
        )
    if unit not in _UNITS:
        raise ValueError(
            f"{unit!r} is not a unit of size; use KiB, MiB, GiB, TiB or KB, MB, GB, TB"
        )
    size = Fraction(number) * _UNITS[unit]
    if size.denominator != 1:
        raise ValueError(f"{shown!r} is not a whole number of bytes")
    return int(size)
