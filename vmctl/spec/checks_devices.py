"""What is wrong with the smaller devices of a machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmctl.errors import SpecProblem
from vmctl.spec.graphics import GraphicsType
from vmctl.spec.input import InputBus
from vmctl.spec.lifecycle import EndAction
from vmctl.spec.platforms import Platform
from vmctl.spec.profiles import profile_for
from vmctl.spec.serial import ConsoleType
from vmctl.spec.video import VideoModel
from vmctl.spec.watchdog import WatchdogModel

if TYPE_CHECKING:
    from vmctl.spec.machine import VMSpec

__all__ = ["check_devices"]

_MOST_SERIALS = 4
_ISA_SOUND = {"sb16", "pcspk"}
_X86_VIDEO = {VideoModel.CIRRUS, VideoModel.VMVGA, VideoModel.QXL, VideoModel.VGA}


def check_devices(spec: VMSpec, platform: Platform) -> Iterator[SpecProblem]:
    """Find devices that the machine can't have, or that need another one."""
    if len(spec.serials) > _MOST_SERIALS:
        yield SpecProblem(
            "serials", f"a machine takes four serial ports, this spec has {len(spec.serials)}"
        )
    yield from _check_console(spec)
    yield from _check_screen(spec)
    yield from _check_guarded(spec)
    yield from _check_inputs(spec, platform)
    yield from _check_lifecycle(spec)
    targets = [share.target for share in spec.shares]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            yield SpecProblem(f"shares[{index}].target", f"{target} is another share's already")
    if not platform.pci:
        yield from _check_without_pci(spec)
    if not platform.bios:
        yield from _check_arm(spec, platform)


def _check_console(spec: VMSpec) -> Iterator[SpecProblem]:
    serial = spec.console is not None and spec.console.type is ConsoleType.SERIAL
    if serial and not spec.serials:
        yield SpecProblem("console", "a serial console needs a serial port (serials)")


def _check_guarded(spec: VMSpec) -> Iterator[SpecProblem]:
    """See that nobody but the host's own users reaches a screen, where the profile wants that.

    Whether it has a password can't be seen here: a record has none.
    """
    profile = profile_for(spec.profile, spec.arch, spec.machine)
    if profile is None or not profile.graphics_guarded:
        return
    for index, server in enumerate(spec.graphics):
        if not ipaddress.ip_address(server.listen).is_loopback:
            yield SpecProblem(
                f"graphics[{index}].listen",
                f"{server.listen} is not loopback, which profile {spec.profile} asks for",
            )


def _check_screen(spec: VMSpec) -> Iterator[SpecProblem]:
    has_video = spec.video is not None and spec.video.model is not VideoModel.NONE
    if spec.graphics and not has_video:
        yield SpecProblem("graphics", "shows the graphics adapter's screen, and video is none")
    kinds = [server.type for server in spec.graphics]
    for index, kind in enumerate(kinds):
        if kind in kinds[:index]:
            yield SpecProblem(f"graphics[{index}]", f"a machine has one {kind} server")
    ports = [(server.port, index) for index, server in enumerate(spec.graphics) if server.port]
    if len(ports) > 1 and ports[0][0] == ports[1][0]:
        yield SpecProblem("graphics[1].port", f"{ports[1][0]} is graphics[0]'s already")
    if (
        spec.video is not None
        and spec.video.model is VideoModel.QXL
        and GraphicsType.SPICE not in kinds
    ):
        yield SpecProblem("video.model", "qxl needs a spice server under graphics")


def _check_inputs(spec: VMSpec, platform: Platform) -> Iterator[SpecProblem]:
    for index, device in enumerate(spec.inputs):
        if device.bus is InputBus.PS2 and not platform.ps2:
            yield SpecProblem(f"inputs[{index}].bus", f"machine type {spec.machine} has no PS/2")


def _check_lifecycle(spec: VMSpec) -> Iterator[SpecProblem]:
    # QEMU can't tell the two apart well enough for this pair; libvirt refuses it.
    if spec.on_poweroff is EndAction.RESTART and spec.on_reboot is EndAction.DESTROY:
        yield SpecProblem("on_poweroff", "restart can't go together with on_reboot: destroy")


def _check_without_pci(spec: VMSpec) -> Iterator[SpecProblem]:
    where = f"machine type {spec.machine} has no PCI"
    needs = {
        "rng": spec.rng is not None,
        "balloon": spec.balloon is not None,
        "shares": bool(spec.shares),
        "agent": spec.agent,
        "video": spec.video is not None and spec.video.model is not VideoModel.NONE,
        "console": spec.console is not None and spec.console.type is ConsoleType.VIRTIO,
        "watchdog": spec.watchdog is not None and spec.watchdog.model is WatchdogModel.I6300ESB,
        "sound": spec.sound is not None and spec.sound.model not in _ISA_SOUND,
    }
    for name, there in needs.items():
        if there:
            yield SpecProblem(name, f"needs PCI, and {where}")
    for index, device in enumerate(spec.inputs):
        if device.bus is not InputBus.PS2:
            yield SpecProblem(f"inputs[{index}].bus", f"{device.bus} needs PCI, and {where}")


def _check_arm(spec: VMSpec, platform: Platform) -> Iterator[SpecProblem]:
    if spec.video is not None and spec.video.model in _X86_VIDEO:
        yield SpecProblem(
            "video.model", f"there is no {spec.video.model} on {platform.name}; use virtio or ramfb"
        )
    if spec.watchdog is not None and spec.watchdog.model is WatchdogModel.IB700:
        yield SpecProblem("watchdog.model", f"ib700 needs ISA, and {platform.name} has none")
    if spec.panic is not None:
        yield SpecProblem("panic.model", f"isa needs ISA, and {platform.name} has none")
    if spec.sound is not None and spec.sound.model in _ISA_SOUND:
        yield SpecProblem(
            "sound.model", f"{spec.sound.model} needs ISA, and {platform.name} has none"
        )
