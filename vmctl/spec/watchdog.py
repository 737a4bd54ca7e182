"""The watchdog."""

from __future__ import annotations

from enum import StrEnum

from vmctl.spec.base import SpecModel

__all__ = ["WatchdogAction", "WatchdogModel", "WatchdogSpec"]


class WatchdogModel(StrEnum):
    """The watchdog that the guest sees."""

    I6300ESB = "i6300esb"
    IB700 = "ib700"


class WatchdogAction(StrEnum):
    """What happens when the guest stops feeding it."""

    RESET = "reset"
    SHUTDOWN = "shutdown"
    POWEROFF = "poweroff"
    PAUSE = "pause"
    DUMP = "dump"
    INJECT_NMI = "inject-nmi"
    NONE = "none"


class WatchdogSpec(SpecModel):
    """A watchdog that acts when the guest hangs."""

    short_form = "action"

    model: WatchdogModel = WatchdogModel.I6300ESB
    """`i6300esb` (PCI) or `ib700` (ISA)."""
    action: WatchdogAction = WatchdogAction.RESET
    """What happens when the guest stops feeding it."""
