"""Graphics servers: how a person sees the guest's screen."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from vmctl.spec.base import SpecModel
from vmctl.spec.nic import IpAddress

__all__ = ["GraphicsSpec", "GraphicsType"]


class GraphicsType(StrEnum):
    """What the server speaks."""

    VNC = "vnc"
    SPICE = "spice"


class GraphicsSpec(SpecModel):
    """A graphics server."""

    short_form = "type"

    type: GraphicsType = GraphicsType.VNC
    """`vnc` or `spice`."""
    listen: IpAddress = "127.0.0.1"
    """The host's address that it listens on; only the host itself reaches the default."""
    port: Annotated[int, Field(ge=5900, le=65535)] | None = None
    """Its port; the host chooses one when it is not given."""
