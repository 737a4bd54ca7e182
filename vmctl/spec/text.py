"""Text that fits where it goes: one line, an XML document, a YAML document."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

__all__ = ["GuestText", "HostPath", "Line", "LongLine", "ObjectName", "TextOrList", "guest_text"]

# Characters that XML 1.0 can't hold (https://www.w3.org/TR/xml/#charsets), and the line breaks and
# tabs that XML turns into spaces in an attribute.
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_NOT_IN_A_DOCUMENT = re.compile("[\x00\ud800-\udfff]")


def _line(text: str) -> str:
    match = _NOT_IN_A_LINE.search(text)
    if match is not None:
        raise ValueError(f"has the control character {match.group()!a}; use plain text on one line")
    return text


def guest_text(text: str) -> str:
    """Check that a text file can hold the text.

    Raises:
        ValueError: It has a NUL or half a surrogate pair.
    """
    match = _NOT_IN_A_DOCUMENT.search(text)
    if match is not None:
        raise ValueError(f"has the character {match.group()!a}, which no text file can hold")
    return text


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path; the host has no current folder")
    return path


def _object_name(name: str) -> str:
    if name in {".", ".."} or "/" in name:
        raise ValueError(f"{name!r} is not a name: no '/', and not '.' or '..'")
    return name


def _as_list(value: Any) -> Any:
    return () if value is None else (value,) if isinstance(value, str) else value


TextOrList = BeforeValidator(_as_list, json_schema_input_type=str | list[str])
"""Lets a list of one text be written without the list."""

Line = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_line)]
"""One line of at most 255 characters that XML can hold."""

LongLine = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_line)]
"""One line of at most 4096 characters that XML can hold."""

HostPath = Annotated[LongLine, AfterValidator(_absolute)]
"""An absolute path on the host."""

ObjectName = Annotated[Line, AfterValidator(_object_name)]
"""The name of a network or another object of libvirt's."""

GuestText = Annotated[str, AfterValidator(guest_text)]
"""Any text that a file in the guest can hold, of any number of lines."""
