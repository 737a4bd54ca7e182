"""The graphics adapter."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.sizes import Size

__all__ = ["VideoModel", "VideoSpec"]


class VideoModel(StrEnum):
    """The adapter that the guest sees."""

    VGA = "vga"
    CIRRUS = "cirrus"
    VMVGA = "vmvga"
    QXL = "qxl"
    VIRTIO = "virtio"
    BOCHS = "bochs"
    RAMFB = "ramfb"
    NONE = "none"


class VideoSpec(SpecModel):
    """The graphics adapter; it can be there, for screenshots, without any graphics server."""

    short_form = "model"

    model: VideoModel = VideoModel.VGA
    """The adapter that the guest sees, or `none`."""
    vram: Size | None = None
    """The adapter's memory, with a unit."""
    heads: Annotated[int, Field(ge=1, le=16)] = 1
    """How many screens it drives; more than one with virtio and qxl only."""

    def _problems(self) -> list[SpecProblem]:
        problems = []
        if self.vram is not None and self.model not in {
            VideoModel.VGA,
            VideoModel.CIRRUS,
            VideoModel.QXL,
            VideoModel.VMVGA,
            VideoModel.BOCHS,
        }:
            problems.append(SpecProblem("vram", f"{self.model} has no memory of its own"))
        if self.vram is not None and int(self.vram) % 1024**2:
            problems.append(SpecProblem("vram", f"{self.vram} is not a whole number of MiB"))
        if self.heads > 1 and self.model not in {VideoModel.VIRTIO, VideoModel.QXL}:
            problems.append(SpecProblem("heads", f"{self.model} drives one screen"))
        return problems
