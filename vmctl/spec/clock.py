"""The clock."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel

__all__ = ["ClockOffset", "ClockSpec", "TimeZone"]

TimeZone = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$")]
"""A name of the tz database: ``Europe/Berlin``."""


class ClockOffset(StrEnum):
    """What the machine's hardware clock shows."""

    UTC = "utc"
    LOCALTIME = "localtime"
    TIMEZONE = "timezone"


class ClockSpec(SpecModel):
    """The machine's hardware clock."""

    short_form = "offset"

    offset: ClockOffset | None = None
    """`utc`, the host's `localtime`, or that of a `timezone`."""
    timezone: TimeZone | None = None
    """A name of the tz database; offset is then `timezone`."""

    def _problems(self) -> list[SpecProblem]:
        if self.timezone is not None and self.offset not in {None, ClockOffset.TIMEZONE}:
            return [SpecProblem("timezone", f"contradicts offset: {self.offset}; leave offset out")]
        if self.timezone is None and self.offset is ClockOffset.TIMEZONE:
            return [SpecProblem("timezone", "offset: timezone needs a timezone beside it")]
        return []
