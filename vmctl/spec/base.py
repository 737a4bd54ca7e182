"""What every part of a spec is: frozen, closed to unknown fields, and precise about mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from vmctl.errors import SpecProblem
from vmctl.spec.problems import ProblemsError, spec_error_from

__all__ = ["SpecModel"]


class SpecModel(BaseModel):
    """A part of a spec.

    Whoever builds one, in Python or from a file, gets a `vmctl.errors.SpecError` for what is wrong
    with it, never pydantic's own error.

    ``short_form`` names the field that a bare value stands for: ``firmware: uefi`` is
    ``firmware: {type: uefi}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    short_form: ClassVar[str | None] = None

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except (ValidationError, UnicodeEncodeError) as error:
            raise spec_error_from(error, type(self)) from None

    # pydantic calls a model's own __init__ for a nested model too, where the error would lose its
    # path. This mark, which pydantic puts on its own, says that __init__ adds no behaviour there.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Build from a mapping.

        Raises:
            SpecError: The mapping is not a valid spec.
        """
        try:
            return super().model_validate(obj, **options)
        except (ValidationError, UnicodeEncodeError) as error:
            raise spec_error_from(error, cls) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Build from a JSON document.

        Raises:
            SpecError: The document is not JSON, or not a valid spec.
        """
        try:
            return super().model_validate_json(json_data, **options)
        except (ValidationError, UnicodeEncodeError) as error:
            raise spec_error_from(error, cls) from None

    def replace(self, **changes: Any) -> Self:
        """Make a copy with other values, and validate it.

        Raises:
            SpecError: The result is not valid.
        """
        written = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate(written | changes)

    def _filled(self, **defaults: Any) -> Self:
        """Fill in the fields that have no value yet; nothing is validated."""
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return self.model_copy(update=missing) if missing else self

    def _problems(self) -> list[SpecProblem]:
        """What is wrong with the fields together; paths are relative to this model."""
        return []

    @model_validator(mode="before")
    @classmethod
    def _expand_short_form(cls, data: Any) -> Any:
        if isinstance(data, Mapping | BaseModel) or cls.short_form is None or data is None:
            return data
        return {cls.short_form: data}

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems = self._problems()
        if problems:
            raise ProblemsError(problems)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the short form too."""
        described = handler(schema)
        if cls.short_form is None:
            return described
        inner = handler.resolve_ref_schema(described)
        field = inner.get("properties", {}).get(cls.short_form, {})
        whole = dict(inner)
        inner.clear()
        inner["title"] = whole.get("title", cls.__name__)
        inner["anyOf"] = [field, whole]
        return described
