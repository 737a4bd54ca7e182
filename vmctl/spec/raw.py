"""Raw pieces of cloud-config: mappings that are passed on as they are."""

from __future__ import annotations

import re
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator

from vmctl.spec.text import guest_text
from vmctl.spec.yaml_text import parse_cloud_config

__all__ = ["RawMapping"]

_TOP = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}", re.ASCII)
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_LONGEST_KEY = 128
_DEEPEST = 32


def _mapping(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = parse_cloud_config(value)
        except yaml.YAMLError as error:
            raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        what = "must be a mapping, or the text of a #cloud-config that is one"
        raise ValueError(what)  # noqa: TRY004 - pydantic wants a ValueError
    for key in value:
        if not isinstance(key, str) or not _TOP.fullmatch(key) or key.lower() in _NOT_TEXT:
            raise ValueError(
                f"has the key {str(key)[:40]!r}; a key at the top is letters, digits, '_' and '-'"
            )
    _check(value, 0)
    return value


def _check(value: object, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"is nested more than {_DEEPEST} levels deep")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str) or not 0 < len(key) <= _LONGEST_KEY:
                raise ValueError(
                    f"has the key {str(key)[:40]!r}; a key is text of at most {_LONGEST_KEY} "
                    "characters (put quotes around it)"
                )
            guest_text(key)
            _check(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, str):
        guest_text(value)
    elif isinstance(value, float) and value - value != 0:
        raise ValueError(f"has the number {value}, which JSON can't hold")
    elif value is not None and not isinstance(value, bool | int | float):
        raise ValueError(f"has {value!s:.40}, a {type(value).__name__}; put quotes around it")


RawMapping = Annotated[dict[str, Any], BeforeValidator(_mapping, json_schema_input_type=dict | str)]
"""A mapping of anything that JSON can hold, or the YAML text of one."""
