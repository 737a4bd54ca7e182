"""Sound cards."""

from __future__ import annotations

from enum import StrEnum

from vmctl.spec.base import SpecModel

__all__ = ["SoundModel", "SoundSpec"]


class SoundModel(StrEnum):
    """The sound card that the guest sees."""

    ICH6 = "ich6"
    ICH9 = "ich9"
    AC97 = "ac97"
    ES1370 = "es1370"
    SB16 = "sb16"
    PCSPK = "pcspk"
    USB = "usb"


class SoundSpec(SpecModel):
    """A sound card. What the guest plays is not heard unless a graphics server carries it."""

    short_form = "model"

    model: SoundModel
    """The sound card that the guest sees."""
