"""Single devices, for machines that there are: by the templates that a whole machine is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vmctl.render.devices import Controller, DriveView, disk_view, drive_address
from vmctl.render.nwfilter import nic_filter, refuse_left_out
from vmctl.render.sources import DiskSource
from vmctl.render.templates import Templates
from vmctl.spec import DiskBus, DiskSpec, NicSpec
from vmctl.spec.drives import Drive

__all__ = [
    "MemoryDevice",
    "render_disk",
    "render_medium",
    "render_memory",
    "render_nic",
    "render_scsi_controller",
]


@dataclass(frozen=True, kw_only=True)
class MemoryDevice:
    """Memory that is plugged in.

    Attributes:
        model: ``virtio-mem``, of which the guest takes as much as is requested, or ``dimm``.
        size_kib: How large it is.
        requested_kib: How much of it the guest shall use; of a ``dimm`` always all.
        block_kib: The unit in which a ``virtio-mem`` device gives memory.
    """

    model: Literal["virtio-mem", "dimm"]
    size_kib: int
    requested_kib: int = 0
    block_kib: int = 2048


def render_disk(
    drive: Drive,
    disk: DiskSpec,
    source: DiskSource | None,
    form: str,
    *,
    sata_port: int,
    templates: Templates | None = None,
) -> str:
    """Render one disk.

    Args:
        drive: Its place among the machine's drives.
        disk: Its spec, resolved.
        source: What it is; None where the spec itself names a server.
        form: How it is written (``qcow2``, ``raw``).
        sata_port: The port that is free for it, if it is on SATA.
        templates: Templates to use instead of the default ones.
    """
    view = disk_view(drive, disk, source, form, drive_address(drive, sata_port))
    return _render("disk", {"drive": view}, templates)


def render_medium(
    target: str, bus: DiskBus, source: DiskSource, *, templates: Templates | None = None
) -> str:
    """Render a CD-ROM drive with a medium in it."""
    view = DriveView(
        device="cdrom",
        format="raw",
        source=source,
        target=target,
        bus=bus,
        address=None,
        read_only=True,
    )
    return _render("disk", {"drive": view}, templates)


def render_nic(
    nic: NicSpec, *, known: Sequence[str] = (), templates: Templates | None = None
) -> str:
    """Render one NIC, which has its MAC address and model.

    Args:
        nic: The NIC, resolved.
        known: Addresses that it has besides those in its spec.
        templates: Templates to use instead of the default ones.
    """
    said = nic_filter(nic, known, templates)
    filters = {} if said is None else {nic.mac: said}
    xml = _render("nic", {"nic": nic, "nic_filters": filters}, templates)
    refuse_left_out(xml, filters.values())
    return xml


def render_scsi_controller(*, templates: Templates | None = None) -> str:
    """Render the SCSI controller that a machine has one of."""
    controller = Controller(type="scsi", index=0, model="virtio-scsi")
    return _render("controller", {"controllers": [controller]}, templates)


def render_memory(memory: MemoryDevice, *, templates: Templates | None = None) -> str:
    """Render a memory device."""
    return _render("memory", {"memory": memory}, templates)


def _render(name: str, values: dict[str, object], templates: Templates | None) -> str:
    return (templates or Templates.default()).xml(f"devices/{name}.xml.j2", values)
