"""What becomes of the machine when its guest powers off, reboots or crashes.

https://libvirt.org/formatdomain.html#events-configuration. QEMU has no ``rename-restart``, and
does for ``preserve`` after a shutdown or a reboot what it does for ``destroy``; neither is offered.
"""

from __future__ import annotations

from enum import StrEnum

from vmctl.spec.base import SpecModel

__all__ = ["CrashAction", "EndAction", "PanicModel", "PanicSpec"]


class EndAction(StrEnum):
    """What follows when the guest powers off or reboots."""

    DESTROY = "destroy"
    RESTART = "restart"


class CrashAction(StrEnum):
    """What follows when the guest crashes."""

    DESTROY = "destroy"
    RESTART = "restart"
    PRESERVE = "preserve"
    COREDUMP_DESTROY = "coredump-destroy"
    COREDUMP_RESTART = "coredump-restart"


class PanicModel(StrEnum):
    """By which device the guest's kernel says that it crashed."""

    ISA = "isa"


class PanicSpec(SpecModel):
    """A device by which the guest's kernel says that it crashed: pvpanic."""

    short_form = "model"

    model: PanicModel
    """`isa`: pvpanic on the ISA bus, which Linux drives and Windows has a driver for."""
