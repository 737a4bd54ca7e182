"""Input devices."""

from __future__ import annotations

from enum import StrEnum

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel

__all__ = ["InputBus", "InputSpec", "InputType"]


class InputType(StrEnum):
    """What a person holds."""

    TABLET = "tablet"
    MOUSE = "mouse"
    KEYBOARD = "keyboard"


class InputBus(StrEnum):
    """What it is plugged into."""

    USB = "usb"
    PS2 = "ps2"
    VIRTIO = "virtio"


class InputSpec(SpecModel):
    """An input device."""

    short_form = "type"

    type: InputType
    """`tablet`, `mouse` or `keyboard`."""
    bus: InputBus = InputBus.USB
    """`usb`, `ps2` or `virtio`."""

    def _problems(self) -> list[SpecProblem]:
        if self.type is InputType.TABLET and self.bus is InputBus.PS2:
            return [SpecProblem("bus", "there are no PS/2 tablets; use usb, or a mouse")]
        return []
