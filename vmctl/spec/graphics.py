"""Graphics servers: how a person sees the guest's screen."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from vmctl.errors import SpecProblem
from vmctl.spec.addresses import IpAddress
from vmctl.spec.base import SpecModel

__all__ = ["LONGEST_PASSWORD", "GraphicsSpec", "GraphicsType"]


class GraphicsType(StrEnum):
    """What the server speaks."""

    VNC = "vnc"
    SPICE = "spice"


GraphicsPassword = Annotated[str, Field(min_length=1, pattern=r"^[ -~]*$")]
LONGEST_PASSWORD = {GraphicsType.VNC: 8, GraphicsType.SPICE: 59}
"""RFC 6143, 7.2.2; SPICE_MAX_PASSWORD_LENGTH of the SPICE protocol, less the NUL."""


class GraphicsSpec(SpecModel):
    """A graphics server."""

    short_form = "type"

    type: GraphicsType = GraphicsType.VNC
    """`vnc` or `spice`."""
    listen: IpAddress = "127.0.0.1"
    """The host's address that it listens on; only the host itself reaches the default."""
    port: Annotated[int, Field(ge=5900, le=65535)] | None = None
    """Its port; the host chooses one when it is not given."""
    password: GraphicsPassword | None = Field(default=None, repr=False)
    """What whoever connects must know: up to 8 characters for VNC, 59 for SPICE."""
    exchange: bool | None = None
    """Whether a client exchanges its clipboard and files with the guest; on SPICE only."""

    def _problems(self) -> list[SpecProblem]:
        if self.exchange is not None and self.type is not GraphicsType.SPICE:
            return [SpecProblem("exchange", f"{self.type} has no such thing; leave it out")]
        most = LONGEST_PASSWORD[self.type]
        if self.password is not None and len(self.password) > most:
            return [SpecProblem("password", f"{self.type} takes {most} characters at most")]
        return []
