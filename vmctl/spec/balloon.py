"""The memory balloon."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vmctl.spec.base import SpecModel

__all__ = ["BalloonSpec"]


class BalloonSpec(SpecModel):
    """A virtio balloon, by which the host takes memory back and sees what the guest uses."""

    autodeflate: bool = False
    """Whether the balloon gives memory back before the guest kills a process for want of it."""
    free_page_reporting: bool = False
    """Whether the guest tells the host which pages it does not use."""
    stats_period: Annotated[int, Field(ge=1, le=3600)] | None = None
    """Seconds between two reports of what the guest uses."""
