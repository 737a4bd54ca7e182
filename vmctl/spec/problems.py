"""From pydantic's errors to `SpecError`, in plain words."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from vmctl.errors import SpecError, SpecProblem

__all__ = ["HINT", "ProblemsError", "join_path", "model_in", "spec_error", "spec_error_from"]

HINT = "`vmctl schema` prints every field; docs/reference/spec.md explains them"

_OTHER_WORDS = {
    "cpus": "vcpus",
    "cpu_count": "vcpus",
    "ram": "memory",
    "mem": "memory",
    "networks": "nics",
    "network_interfaces": "nics",
    "interfaces": "nics",
    "volumes": "disks",
    "iso": "cdroms",
    "hostname": "cloud_init.hostname",
    "users": "cloud_init.users",
    "packages": "cloud_init.packages",
    "runcmd": "cloud_init.runcmd",
    "userdata": "user_data",
    "path": "volume",
    "readonly": "read_only",
    "ssh_keys": "ssh_authorized_keys",
    "passwd": "hashed_passwd",
    "password": "hashed_passwd",
    "plain_text_passwd": "hashed_passwd",
    "ip": "address",
    "addresses": "address",
    "dhcp4": "dhcp",
}
_WANTED = {
    "string_type": "text; put quotes around it",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list (lines that begin with '- ')",
    "list_type": "a list (lines that begin with '- ')",
    "dict_type": "a mapping (lines of 'key: value')",
    "model_type": "a mapping (lines of 'key: value')",
    "model_attributes_type": "a mapping (lines of 'key: value')",
}
_FORMS = {
    "missing": "is missing",
    "enum": "{value} is not one of {expected}",
    "string_too_short": "is empty",
    "string_too_long": "has more than {max_length} characters",
    "greater_than_equal": "{value} is not at least {ge}",
    "less_than_equal": "{value} is not at most {le}",
    "string_pattern_mismatch": "{value} does not match {pattern}",
}
_LONGEST_VALUE = 60


class ProblemsError(ValueError):
    """Several problems of one model, with paths that are relative to it."""

    def __init__(self, problems: Iterable[SpecProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def join_path(*parts: str | int) -> str:
    """Write a path as a person would: ``disks[2].bus``."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part:
            text += f".{part}" if text and not part.startswith("[") else part
    return text


def spec_error(
    problems: Iterable[SpecProblem], *, source: str = "the spec", hint: str = HINT
) -> SpecError:
    """Make the error for these problems; with one alone, the brief says it all."""
    found = tuple(problems)
    if len(found) == 1:
        error = SpecError(f"{source} is not valid: {found[0]}", problems=found, hint=hint)
        error.details = ""
        return error
    return SpecError(f"{source} is not valid, {len(found)} problems", problems=found, hint=hint)


def spec_error_from(
    error: ValidationError | UnicodeEncodeError,
    model: type[BaseModel],
    *,
    source: str = "the spec",
) -> SpecError:
    """Translate what pydantic found wrong with a ``model``.

    A lone half of a surrogate pair makes pydantic itself stumble, with a `UnicodeEncodeError`.
    """
    if isinstance(error, UnicodeEncodeError):
        what = "has half of a surrogate pair, a character that no text file can hold"
        return spec_error([SpecProblem("", what)], source=source)
    problems: list[SpecProblem] = []
    for found in error.errors(include_url=False):
        problems.extend(_translate(typing.cast("Mapping[str, Any]", found), model))
    return spec_error(problems, source=source)


def _translate(found: Mapping[str, Any], model: type[BaseModel]) -> list[SpecProblem]:
    path = join_path(*found["loc"])
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, ProblemsError):
        return [
            SpecProblem(join_path(path, problem.path), problem.message)
            for problem in cause.problems
        ]
    if isinstance(cause, Exception):
        return [SpecProblem(path, str(cause))]
    return [SpecProblem(path, _message(found, model))]


def _message(found: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, context = found["type"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(found["loc"], model)
    if kind in _WANTED:
        return f"{_shown(found['input'])} is not {_WANTED[kind]}"
    form = _FORMS.get(kind)
    if form is None:
        return str(found["msg"])
    words = {name: str(value).replace("'", "") for name, value in context.items()}
    return form.format(value=_shown(found["input"]), **words)


def _shown(value: object) -> str:
    text = "nothing" if value is None else str(value) if isinstance(value, str | int) else ""
    if not text:
        text = "''" if isinstance(value, str) else f"a {_kind(value)}"
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "mapping"
    return "list" if isinstance(value, list | tuple) else type(value).__name__


def _unknown(loc: tuple[str | int, ...], root: type[BaseModel]) -> str:
    name = str(loc[-1])
    fields = list(_fields_at(root, loc[:-1]))
    other = _OTHER_WORDS.get(name.lower(), "")
    if other.partition(".")[0] in fields and other != name:
        return f"is not a field here; did you mean {other}?"
    near = difflib.get_close_matches(name, fields, n=1)
    if near:
        return f"is not a field here; did you mean {near[0]}?"
    return f"is not a field here; there are {', '.join(fields)}" if fields else "is not a field"


def _fields_at(root: type[BaseModel], loc: tuple[str | int, ...]) -> Iterable[str]:
    model: type[BaseModel] | None = root
    for part in loc:
        if isinstance(part, str) and model is not None:
            field = model.model_fields.get(part)
            model = model_in(field.annotation) if field is not None else None
    return model.model_fields if model is not None else ()


def model_in(annotation: object) -> type[BaseModel] | None:
    """Find the model that a field holds, alone or in a list; None when it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in typing.get_args(annotation):
        model = model_in(inner)
        if model is not None:
            return model
    return None
