"""Folders of the host that a guest can use."""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.text import HostPath

__all__ = ["ShareDriver", "ShareSpec"]


class ShareDriver(StrEnum):
    """How the guest reaches the folder."""

    AUTO = "auto"
    VIRTIOFS = "virtiofs"
    NINEP = "9p"


def _a_folder(path: str) -> str:
    plain = PurePosixPath(path)
    if str(plain) != path or ".." in plain.parts:
        raise ValueError(
            f"{path!r} is not a plain path; write it without '..', '.' and a '/' behind"
        )
    if len(plain.parts) == 1:
        raise ValueError("the whole file system of the host can't be shared; name a folder in it")
    return path


# Linux reads 36 bytes of virtiofs's name, and 9p's goes by the same pattern.
_Tag = Annotated[str, Field(max_length=31, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ShareSpec(SpecModel):
    """A folder of the host, under a name by which the guest mounts it."""

    source: Annotated[HostPath, AfterValidator(_a_folder)]
    """The folder: an absolute path on the host, not on the machine that vmctl runs on."""
    target: _Tag
    """What the guest mounts it by: 1 to 31 letters, digits, '.', '_' and '-'."""
    read_only: bool = False
    """Whether the guest can only read it; it is 9p then."""
    driver: ShareDriver = ShareDriver.AUTO
    """`virtiofs`, `9p`, or `auto`: virtiofs where the host has it and it isn't read-only."""

    def _problems(self) -> list[SpecProblem]:
        if self.read_only and self.driver is ShareDriver.VIRTIOFS:
            return [SpecProblem("read_only", "virtiofs can't be read-only; write driver: 9p")]
        return []
