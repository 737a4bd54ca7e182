"""A machine's screen and keyboard, as libvirt gives them.

https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainScreenshot
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import libvirt
from lxml import etree

from vmctl.errors import NotFoundError, VmctlError, WrongStateError
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["press_keys", "take_screenshot"]

_RECEIVED = 262120


def take_screenshot(domain: Domain, screen: int) -> bytes:
    """Return what a screen shows, as the hypervisor writes it: PNG, or PPM before QEMU 7.1.

    Args:
        domain: A machine that runs.
        screen: Which one, counted from 0.

    Raises:
        NotFoundError: It has no such screen.
        WrongStateError: It is off.
    """

    def why_not(error: libvirt.libvirtError) -> VmctlError | None:
        if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
            return None
        state = domain.state()
        if domain.is_active():
            return NotFoundError(
                f"'{domain.name}' has no screen {screen}",
                details=error.get_error_message() or "",
                hint="screens are counted from 0; `video.heads` in its spec says how many it has",
            )
        return _is_off(domain, state, "has no picture")

    raw = domain.raw()
    video = etree.fromstring(domain.xml()).find("devices/video/model")
    if domain.is_active() and (video is None or video.get("type") == "none"):
        raise NotFoundError(
            f"'{domain.name}' has no screen", hint="a machine has one with a `video` in its spec"
        )
    pieces = []
    with calling(f"take a screenshot of '{domain.name}'", on=why_not):
        stream = domain.connection.raw.newStream(0)
        try:
            raw.screenshot(stream, screen, 0)
            while piece := stream.recv(_RECEIVED):
                pieces.append(piece)
            stream.finish()
        except BaseException:
            # After an error the stream is gone already.
            with suppress(libvirt.libvirtError):
                stream.abort()
            raise
    return b"".join(pieces)


def press_keys(domain: Domain, codes: Sequence[int], *, hold: int) -> None:
    """Press keys together, and let go of them. It returns at once; QEMU takes its time.

    Args:
        domain: A machine that runs.
        codes: Linux's key codes, 16 at most (``linux/input-event-codes.h``).
        hold: Milliseconds from each of these events to the next one.

    Raises:
        WrongStateError: It does not run; a machine that is paused loses all keys.
    """
    state = domain.state()
    if state is not State.RUNNING:
        raise _is_off(domain, state, "takes no keys")
    raw = domain.raw()
    with calling(f"press keys of '{domain.name}'"):
        raw.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, hold, list(codes), len(codes), 0)


def _is_off(domain: Domain, state: State, what: str) -> WrongStateError:
    paused = state is State.PAUSED
    return WrongStateError(
        f"'{domain.name}' is {state.value}: it {what}",
        state=state.value,
        hint=f"`vmctl {'resume' if paused else 'start'} {domain.name}`",
    )
