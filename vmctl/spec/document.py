"""Specs that are whole documents: a file, or a text, is one."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from vmctl.spec.base import SpecModel

__all__ = ["SpecDocument"]


class SpecDocument(SpecModel):
    """A spec that is read from YAML by itself."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a spec from a YAML file.

        Raises:
            SpecError: The file can't be read, is not YAML, or is not a valid spec.
        """
        from vmctl.spec.loading import read_file  # noqa: PLC0415 - a spec made in Python needs none

        return cls.from_yaml(read_file(Path(path)), source=str(path))

    @classmethod
    def from_yaml(cls, text: str, *, source: str = "the spec") -> Self:
        """Read a spec from YAML text; ``source`` is what errors call it.

        Raises:
            SpecError: The text is not YAML, or is not a valid spec.
        """
        from vmctl.spec.loading import parse_mapping, validate  # noqa: PLC0415 - see load

        return validate(cls, parse_mapping(text, source=source), source=source)

    def to_yaml(self) -> str:
        """Write the spec as YAML: what is written in it, secrets and all, and no defaults."""
        import yaml  # noqa: PLC0415 - see load

        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_unset=True),
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=False,
        )
