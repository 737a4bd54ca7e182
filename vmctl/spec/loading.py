"""Reading a spec: the file, the YAML, and errors that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from vmctl.errors import SpecError, SpecProblem
from vmctl.spec.problems import spec_error, spec_error_from
from vmctl.spec.yaml_text import parse_spec

__all__ = ["parse_mapping", "read_file", "validate"]

_Model = TypeVar("_Model", bound=BaseModel)
_LARGEST_FILE = 4 * 1024**2
_EXAMPLE = (
    "a spec looks like this: name: web, image: debian-12.qcow2, memory: 2GiB, each on its own line"
)


def read_file(path: Path) -> str:
    """Read a spec's file.

    Raises:
        SpecError: It does not exist, can't be read, or is not a text file.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SpecError(f"{path} is larger than 4 MiB and no spec", hint=_EXAMPLE)
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError(
            f"there is no file {path}", hint="check the path; it starts from the current folder"
        ) from None
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path} is not a text file in UTF-8 (byte {error.start})", hint=_EXAMPLE
        ) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise SpecError(
            f"{path} can't be read: {reason}", hint="a spec is a YAML file that you may read"
        ) from None


def parse_mapping(text: str, *, source: str) -> dict[str, Any]:
    """Read YAML text that has to be a mapping.

    Raises:
        SpecError: It is not YAML, or is something else than a mapping.
    """
    try:
        data = parse_spec(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{source} is not valid YAML: {_where(error)}", hint=_EXAMPLE) from None
    if data is None:
        raise SpecError(f"{source} is empty", hint=_EXAMPLE)
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else f"just {str(data)[:40]!r}"
        raise SpecError(f"{source} is {kind}, and not a mapping of fields", hint=_EXAMPLE)
    strange = next((key for key in data if not isinstance(key, str)), None)
    if strange is not None:
        raise spec_error([SpecProblem("", f"{strange} is not a field's name")], source=source)
    return data


def validate(model: type[_Model], data: dict[str, Any], *, source: str) -> _Model:
    """Build the model, with errors that name the source.

    Raises:
        SpecError: The data is not valid.
    """
    try:
        return model.__pydantic_validator__.validate_python(data)  # type: ignore[no-any-return]
    except (ValidationError, UnicodeEncodeError) as error:
        raise spec_error_from(error, model, source=source) from None


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        problem = " ".join((error.problem or error.context or "a mistake").split())
        if "cannot start any token" in problem and "\\t" in problem:
            problem = "a tab where spaces are wanted"
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem
    return " ".join(str(error).split())
