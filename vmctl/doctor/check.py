"""What one look found, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vmctl.errors import VmctlError

__all__ = ["Check", "Status", "in_one_line", "ok", "version_text"]

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one look found.

    Attributes:
        name: What was looked at; stable, for programs.
        status: ``ok``; ``warn`` for what only some machines need; ``fail`` for what makes
            launches fail.
        detail: What was seen, in one sentence.
        hint: How to mend it; empty when there is nothing to mend.
    """

    name: str
    status: Status
    detail: str
    hint: str = ""


def ok(name: str, detail: str) -> Check:
    """Return the check of what is well."""
    return Check(name=name, status="ok", detail=detail)


def version_text(version: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def in_one_line(error: VmctlError) -> str:
    """Return what an error says, on one line."""
    details = " ".join(error.details.split())
    return f"{error.brief}: {details}" if details else error.brief
