"""The random number device."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.text import HostPath

__all__ = ["RngSpec"]


class RngSpec(SpecModel):
    """A virtio random number device, fed by the host."""

    source: HostPath = "/dev/urandom"
    """The host's file that the random bytes come from."""
    rate_bytes: Annotated[int, Field(ge=1)] | None = None
    """At most so many bytes in a period; no limit when it is not given."""
    rate_period: Annotated[int, Field(ge=1)] | None = None
    """The period in milliseconds; 1000 when it is not given."""

    def _problems(self) -> list[SpecProblem]:
        if self.rate_period is not None and self.rate_bytes is None:
            return [SpecProblem("rate_period", "needs rate_bytes beside it")]
        return []
