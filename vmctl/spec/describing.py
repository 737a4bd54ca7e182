"""The spec, described: its JSON schema, with what each field's docstring says.

The docstrings are read from the source when somebody asks for them. pydantic could do so when the
models are made, which every start of vmctl would pay for.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from vmctl.spec.machine import VMSpec
from vmctl.spec.problems import model_in

__all__ = ["field_descriptions", "json_schema", "models_of"]


def field_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Give the docstring of each of the model's fields."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    found = {}
    for field, text in pairwise(body.body if isinstance(body, ast.ClassDef) else []):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def models_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Give the model, and those that its fields hold."""
    yield model
    for field in model.model_fields.values():
        inner = model_in(field.annotation)
        if inner is not None:
            yield from models_of(inner)


def json_schema() -> dict[str, Any]:
    """Give the JSON schema of a machine's spec (draft 2020-12)."""
    schema = VMSpec.model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for model in models_of(VMSpec):
        definition = schema if model is VMSpec else schema["$defs"][model.__name__]
        for form in (definition, *definition.get("anyOf", ())):
            _describe(form.get("properties", {}), model)
    return schema


def _describe(properties: dict[str, Any], model: type[BaseModel]) -> None:
    for name, text in field_descriptions(model).items():
        if name in properties:
            properties[name]["description"] = text
