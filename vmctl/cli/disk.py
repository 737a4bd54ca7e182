"""Disks of a machine: list, attach, detach, resize, limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import human_size, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmctl.devices.disks import AttachedDisk

__all__ = ["attach", "detach", "disk", "limit", "list_disks", "resize"]

disk = LazyGroup(
    "disk",
    sections={
        "Commands": {
            "list": f"{__name__}:list_disks",
            **{verb: f"{__name__}:{verb}" for verb in ("attach", "detach", "resize", "limit")},
        }
    },
    help="List, attach, detach, grow and limit the disks of a machine, running or not.",
)

_name = click.argument("name", metavar="NAME", shell_complete=machine_names)
_target = click.argument("target", metavar="TARGET")
_next_start = click.option(
    "--next-start", is_flag=True, help="Leave a running machine as it is until it is started again."
)
_LIMITS = ("total-bytes", "read-bytes", "write-bytes", "total-iops", "read-iops", "write-iops")


def _print(found: Sequence[AttachedDisk]) -> None:
    print_table(
        ("TARGET", "BUS", "SIZE", "FORMAT", "NOW", "LATER", "LIMITS", "SOURCE"),
        [
            (
                entry.target,
                entry.bus,
                "" if entry.capacity is None else human_size(entry.capacity),
                entry.format,
                "yes" if entry.now else "",
                "yes" if entry.later else "",
                ", ".join(f"{name}={value}" for name, value in entry.limits.items()),
                entry.source,
            )
            for entry in found
        ],
    )


@command("list")
@_name
@pass_app
def list_disks(app: App, name: str) -> None:
    """List the disks that NAME has now, or will have at its next start."""
    with app.machine(name) as machine:
        found = machine.disks.list()
    app.show(found, lambda: _print(found))


@command("attach")
@_name
@click.option("--size", metavar="SIZE", help="Its size; that of its image or volume if not given.")
@click.option("--image", metavar="IMAGE", help="What it is a linked clone of.")
@click.option("--volume", metavar="VOLUME", help="An existing volume: NAME, POOL/NAME or a path.")
@click.option("--disk-format", metavar="qcow2|raw", help="How the volume is written.")
@click.option("--bus", metavar="BUS", help="What it is attached to: virtio, scsi, usb, sata, ide.")
@click.option("--target", metavar="TARGET", help="Its name on its bus, such as vdb.")
@click.option("--serial", metavar="TEXT", help="The serial number that the guest sees.")
@click.option("--cache", metavar="MODE", help="libvirt's cache mode.")
@click.option("--read-only", is_flag=True, help="The guest may only read.")
@_next_start
@pass_app
def attach(app: App, /, name: str, disk_format: str | None, next_start: bool, **given: Any) -> None:
    """Attach a disk to NAME: blank, a clone of an image, or an existing volume."""
    from vmctl.spec import DiskSpec  # noqa: PLC0415 - not before it is needed

    if not any(given[what] for what in ("size", "image", "volume")):
        raise click.UsageError("give a --size, an --image, or a --volume")
    fields = {**given, "format": disk_format}
    spec = DiskSpec.model_validate({key: value for key, value in fields.items() if value})
    with app.machine(name) as machine, app.progress(passing=True) as progress:
        made = machine.disks.attach(spec, next_start=next_start, progress=progress)
    app.show(made, lambda: _print([made]))


@command("detach")
@_name
@_target
@click.option("--force", is_flag=True, help="Detach even the root disk.")
@click.option("--delete", is_flag=True, help="Delete its volume, if it was made for NAME.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="SECONDS",
    help="How long the guest has to let go of it (30).",
)
@_next_start
@pass_app
def detach(app: App, /, name: str, target: str, **options: Any) -> None:
    """Detach the disk TARGET from NAME, when its guest lets go of it; its volume stays."""
    with app.machine(name) as machine, app.progress(passing=True) as progress:
        gone = machine.disks.detach(target, progress=progress, **options)
    what = "deleted" if options["delete"] else "it is still there"
    app.show(gone, lambda: app.note(f"{name}: detached {target}, {gone.source} ({what})"))


@command("resize")
@_name
@_target
@click.argument("size", metavar="SIZE")
@pass_app
def resize(app: App, name: str, target: str, size: str) -> None:
    """Make the disk TARGET of NAME as large as SIZE; a guest that runs sees it at once."""
    with app.machine(name) as machine:
        grown = machine.disks.resize(target, size)
    app.show(grown, lambda: _print([grown]))


def _limit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(_LIMITS):
        kind, _, unit = name.partition("-")
        doing = {"total": "read and written", "read": "read", "write": "written"}[kind]
        what = "Bytes" if unit == "bytes" else "Operations"
        text = f"{what} a second, {doing}{', with a unit' if unit == 'bytes' else ''}."
        function = click.option(f"--{name}", metavar="N", help=text)(function)
    return function


@command("limit")
@_name
@_target
@_limit_options
@click.option("--none", is_flag=True, help="Take all limits away.")
@_next_start
@pass_app
def limit(
    app: App, /, name: str, target: str, none: bool, next_start: bool, **rates: str | None
) -> None:
    """Limit what the guest of NAME reads from and writes to TARGET; it replaces all limits."""
    from vmctl.spec import IoTuneSpec  # noqa: PLC0415 - not before it is needed

    wanted = {f"{key}_sec": value for key, value in rates.items() if value is not None}
    if none == bool(wanted):
        raise click.UsageError("give limits, or --none to take them all away")
    with app.machine(name) as machine:
        limits = IoTuneSpec.model_validate(wanted) if wanted else None
        changed = machine.disks.set_limits(target, limits, next_start=next_start)
    app.show(changed, lambda: _print([changed]))
