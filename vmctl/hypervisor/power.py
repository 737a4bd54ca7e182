"""Buttons and wires of a machine beside its power switch: reset, NMI, wake-up, and its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import libvirt
from lxml import etree

from vmctl.errors import NotFoundError, VmctlError
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.names import find, name_is_taken

__all__ = ["ending_on_poweroff", "inject_nmi", "rename", "reset", "wake"]


def reset(domain: Domain) -> None:
    """Press the reset button; the guest gets no chance to end in order."""
    with domain.acting("reset") as raw:
        raw.reset(0)


def inject_nmi(domain: Domain) -> None:
    """Send the guest a non-maskable interrupt."""
    with domain.acting("send an NMI to") as raw:
        raw.injectNMI(0)


def wake(domain: Domain) -> None:
    """Wake a guest that sleeps (S3)."""
    with domain.acting("wake") as raw:
        raw.pMWakeup(0)


@contextmanager
def ending_on_poweroff(domain: Domain) -> Iterator[None]:
    """Let a power-off end the running machine, whatever its definition says, while this lasts.

    With ``on_poweroff`` ``restart``, libvirt would start it again at once. Where it still runs
    afterwards, it is as it was.
    """
    action = etree.fromstring(domain.xml()).findtext("on_poweroff") or "destroy"
    if action == "destroy":
        yield
        return
    _set_poweroff(domain, libvirt.VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY)
    try:
        yield
    finally:
        if outlasting(domain.is_active):
            with suppress(VmctlError):  # it may go off just now
                _set_poweroff(domain, libvirt.VIR_DOMAIN_LIFECYCLE_ACTION_RESTART)


def _set_poweroff(domain: Domain, action: int) -> None:
    with domain.acting("change on_poweroff of") as raw:
        raw.setLifecycleAction(
            libvirt.VIR_DOMAIN_LIFECYCLE_POWEROFF, action, libvirt.VIR_DOMAIN_AFFECT_LIVE
        )


def rename(domain: Domain, name: str) -> Domain:
    """Give a machine that is off another name; returns its new handle.

    Raises:
        ConflictError: Another machine has that name.
        WrongStateError: It is not off.
    """

    def taken() -> VmctlError | None:
        with suppress(NotFoundError):
            if find(domain.connection, name).uuid != domain.uuid:
                return name_is_taken(name)
        return None

    try:
        with domain.acting("rename") as raw:
            raw.rename(name, 0)
    except VmctlError as error:
        raise taken() or error from error.__cause__
    return replace(domain, name=name)
