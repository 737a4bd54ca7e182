"""Serial ports and the console."""

from __future__ import annotations

from enum import StrEnum

from vmctl.spec.base import SpecModel

__all__ = ["ConsoleSpec", "ConsoleType", "SerialSpec", "SerialType"]


class SerialType(StrEnum):
    """What the host's side of a serial port is."""

    PTY = "pty"
    NULL = "null"


class ConsoleType(StrEnum):
    """What the guest's console is made of; libvirt's target types."""

    SERIAL = "serial"
    VIRTIO = "virtio"


class SerialSpec(SpecModel):
    """A serial port."""

    short_form = "type"

    type: SerialType = SerialType.PTY
    """The host's side: a terminal (`pty`), or nothing (`null`)."""
    log: bool = True
    """Whether the first port's output is kept in a file, the console log."""


class ConsoleSpec(SpecModel):
    """The guest's console."""

    short_form = "type"

    type: ConsoleType = ConsoleType.SERIAL
    """The first serial port, or a virtio console of its own (`hvc0`)."""
