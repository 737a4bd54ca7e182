"""Reading a spec from a file or from stdin, with what flags say in the place of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmctl.spec import NetworkSpec, PoolSpec, SecurityGroupSpec, VMSpec

from vmctl.cli.streams import given_stdin

__all__ = [
    "read_network_spec",
    "read_pool_spec",
    "read_security_group_spec",
    "read_spec",
    "source_of",
]


def source_of(file: str) -> str:
    """Return what errors call a file."""
    return "stdin" if file == "-" else file


def read_spec(
    file: str,
    *,
    changes: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> VMSpec:
    """Read a spec.

    Args:
        file: Its path; ``-`` for stdin.
        changes: What replaces its fields.
        defaults: What stands for fields that are not written.

    Raises:
        SpecError: It can't be read, or is not valid.
    """
    from vmctl.spec import VMSpec  # noqa: PLC0415 - it takes a while to import
    from vmctl.spec.loading import parse_mapping, validate  # noqa: PLC0415

    source = source_of(file)
    data = parse_mapping(_text_of(file), source=source)
    return validate(VMSpec, {**(defaults or {}), **data, **(changes or {})}, source=source)


def read_pool_spec(file: str) -> PoolSpec:
    """Read a pool's spec; ``-`` is stdin.

    Raises:
        SpecError: It can't be read, or is not valid.
    """
    from vmctl.spec import PoolSpec  # noqa: PLC0415 - it takes a while to import

    return PoolSpec.from_yaml(_text_of(file), source=source_of(file))


def read_network_spec(file: str) -> NetworkSpec:
    """Read a network's spec; ``-`` is stdin.

    Raises:
        SpecError: It can't be read, or is not valid.
    """
    from vmctl.spec import NetworkSpec  # noqa: PLC0415 - it takes a while to import

    return NetworkSpec.from_yaml(_text_of(file), source=source_of(file))


def read_security_group_spec(file: str) -> SecurityGroupSpec:
    """Read a security group's spec; ``-`` is stdin.

    Raises:
        SpecError: It can't be read, or is not valid.
    """
    from vmctl.spec import SecurityGroupSpec  # noqa: PLC0415 - it takes a while to import

    return SecurityGroupSpec.from_yaml(_text_of(file), source=source_of(file))


def _text_of(file: str) -> str:
    from vmctl.errors import SpecError  # noqa: PLC0415 - as above
    from vmctl.spec.loading import read_file  # noqa: PLC0415

    if file != "-":
        return read_file(Path(file))
    try:
        stdin = given_stdin()
        return "" if stdin is None else stdin.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            f"stdin is not text in UTF-8 (byte {error.start})", hint="a spec is YAML"
        ) from None
