"""Machines: launch, create, list, info, delete."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, each, machine_names, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.output import human_size, print_fields, print_table
from vmctl.cli.settings import ACCELERATORS
from vmctl.cli.specs import read_spec
from vmctl.cli.streams import asks_on_terminal

if TYPE_CHECKING:
    from vmctl.info import DiskInfo, MachineInfo, MachineSummary
    from vmctl.spec import VMSpec
    from vmctl.vm import VM

__all__ = ["create", "delete", "info", "launch", "list_machines"]

_file = click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
_name = click.option("--name", metavar="NAME", help="The machine's name, instead of the spec's.")
_image = click.option("--image", metavar="IMAGE", help="The image, instead of the spec's.")
_accel = click.option(
    "--accel", type=click.Choice(ACCELERATORS), help="The accelerator, instead of the spec's."
)


def _load(app: App, file: str, name: str | None, image: str | None, accel: str | None) -> VMSpec:
    given = {"name": name, "image": image, "accel": accel}
    return read_spec(
        file,
        changes={key: value for key, value in given.items() if value is not None},
        # A wish for all machines doesn't overrule what a spec says of its own.
        defaults={} if app.settings.accel is None else {"accel": app.settings.accel},
    )


def _show_made(app: App, machine: VM) -> None:
    made = machine.info()
    row = (made.name, made.state, made.phase or "", ", ".join(made.addresses))
    app.show(made, lambda: print_table(("NAME", "STATE", "PHASE", "ADDRESSES"), [row]))


@command("launch")
@_file
@_name
@_image
@_accel
@click.option("--no-wait", is_flag=True, help="Don't wait for the guest; return when it runs.")
@click.option("--keep", is_flag=True, help="Keep a machine whose guest does not become ready.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="The longest that any phase of the waiting may take.",
)
@pass_app
def launch(
    app: App,
    *,
    file: str,
    name: str | None,
    image: str | None,
    accel: str | None,
    no_wait: bool,
    keep: bool,
    timeout: float | None,
) -> None:
    """Make a machine from the spec FILE, start it, and wait until its guest is ready.

    FILE is YAML; - reads it from stdin. If anything fails, or on Ctrl-C, all of it is undone.
    """
    spec = _load(app, file, name, image, accel)
    with app.connect() as host:
        with app.progress() as progress:
            machine = host.launch(
                spec, wait=not no_wait, keep=keep, deadlines=deadlines(timeout), progress=progress
            )
        _show_made(app, machine)


@command("create")
@_file
@_name
@_image
@_accel
@pass_app
def create(app: App, file: str, name: str | None, image: str | None, accel: str | None) -> None:
    """Make a machine from the spec FILE without starting it.

    FILE is YAML; - reads it from stdin.
    """
    spec = _load(app, file, name, image, accel)
    with app.connect() as host:
        with app.progress() as progress:
            machine = host.create(spec, progress=progress)
        _show_made(app, machine)


def deadlines(seconds: float | None) -> Any:
    """Return the deadlines with no phase longer than ``seconds``; None leaves them as they are."""
    if seconds is None:
        return None
    from vmctl.guest.readiness import Deadlines  # noqa: PLC0415 - not before it is needed

    return Deadlines().shortened(seconds)


@command("list")
@click.option("--long", "-l", is_flag=True, help="Ask for phase, labels and more, one by one.")
@click.option("--tenant", metavar="TENANT", help="Only the machines of TENANT.")
@pass_app
def list_machines(app: App, long: bool, tenant: str | None) -> None:
    """List the machines of the host, whoever made them.

    It takes one look at the host, however many there are. --long looks at each of them too: the
    phase of a machine that vmctl did not make is shown as -, one that isn't ready is not whole.
    """
    with app.connect() as host:
        machines = host.list(details=long, tenant=tenant)
    app.show(machines, lambda: (_print_details if long else _print_list)(machines))
    if not machines and app.wants_table and sys.stderr.isatty():
        app.note(f"there are no machines at {host.uri}")


def _print_list(machines: Sequence[MachineSummary]) -> None:
    print_table(
        ("NAME", "STATE", "ADDRESSES"),
        [(m.name, _state(m), ", ".join(m.addresses)) for m in machines],
    )


def _print_details(machines: Sequence[MachineSummary]) -> None:
    print_table(
        ("NAME", "STATE", "PHASE", "ADDRESSES", "TENANT", "LABELS"),
        [
            (
                m.name,
                _state(m),
                m.phase or "",
                ", ".join(m.addresses),
                m.tenant or "",
                ", ".join(f"{key}={value}" for key, value in (m.labels or {}).items()),
            )
            for m in machines
        ],
    )


def _state(machine: MachineSummary) -> str:
    """Return the state, with the reason where it is not one to be expected."""
    if machine.saved:
        return f"{machine.state} (saved)"
    told = {"crashed", "failed", "I/O error", "watchdog", "panicked"}
    reason = machine.state_reason
    return f"{machine.state} ({reason})" if reason in told else machine.state


@command("info")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@pass_app
def info(app: App, name: str) -> None:
    """Show all that is known of the machine NAME (a name or a UUID)."""
    with app.machine(name) as machine:
        found = machine.info()
    app.show(found, lambda: _print_info(found))


def _frozen(found: MachineInfo) -> str:
    if found.frozen is None:
        return ""
    return f"yes: `vmctl agent thaw {found.name}` lets them go on" if found.frozen else "no"


def _disk_lines(disk: DiskInfo) -> list[str]:
    """Return a line for a disk, and one for each file underneath."""
    size = "" if disk.capacity is None else f", {human_size(disk.capacity)}"
    takes = "" if disk.allocation is None else f", takes {human_size(disk.allocation)}"
    head = f"{disk.target} ({disk.bus} {disk.device}) {disk.source or 'empty'}{size}{takes}"
    return [
        head,
        *(
            f"  on {layer.path}"
            + ("" if layer.allocation is None else f", {human_size(layer.allocation)}, shared")
            for layer in disk.chain[1:]
        ),
    ]


def _since(found: MachineInfo) -> str:
    if found.uptime is None:
        return ""
    minutes, seconds = divmod(max(0, int(found.uptime)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{found.started} ({hours}:{minutes:02}:{seconds:02})"


def _whole_state(found: MachineInfo) -> str:
    reason = f" ({found.state_reason})" if found.state_reason else ""
    saved = found.saved and found.state_reason != "saved"
    return f"{found.state}{reason}" + (", with a saved state" if saved else "")


def _snapshot(found: MachineInfo, name: str) -> str:
    return f"{name} (current)" if name == found.current_snapshot else name


def _print_info(found: MachineInfo) -> None:
    print_fields(
        [
            ("name", found.name),
            ("uuid", found.uuid),
            ("state", _whole_state(found)),
            ("running since", _since(found)),
            ("phase", found.phase),
            ("addresses", found.addresses),
            ("vcpus", str(found.vcpus)),
            ("memory", human_size(found.memory)),
            ("machine", found.machine),
            ("firmware", found.firmware),
            ("accelerator", {"qemu": "qemu (emulation)"}.get(found.accelerator, found.accelerator)),
            ("autostart", "yes" if found.autostart else "no"),
            ("created", found.created),
            ("tenant", found.tenant or ""),
            ("owner", found.owner),
            ("ssh user", found.ssh_user),
            ("host key", found.host_key),
            ("labels", [f"{key}={value}" for key, value in found.labels.items()]),
            ("disks", [line for disk in found.disks for line in _disk_lines(disk)]),
            (
                "nics",
                [
                    " ".join(filter(None, (nic.mac, f"({nic.type} {nic.model})", nic.source)))
                    + "".join(f", reserved: {address}" for address in nic.reserved)
                    for nic in found.nics
                ],
            ),
            ("graphics", found.graphics),
            ("frozen", _frozen(found)),
            ("snapshots", [_snapshot(found, name) for name in found.snapshots]),
            ("next snapshot", f"{found.snapshot_kind or 'none'}: {found.snapshot_why}"),
            ("address says", [f"{who}: {what}" for who, what in found.sources.items()]),
        ]
    )


@command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=machine_names)
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@pass_app
def delete(app: App, names: tuple[str, ...], yes: bool) -> None:
    """Remove machines with all that is theirs: guest, disks, NVRAM, snapshots, seed.

    Running ones are ended at once. On a terminal it asks first.
    """
    asks = not yes and asks_on_terminal()

    def act(machine: VM) -> dict[str, Any]:
        found = {"name": machine.name, "uuid": machine.uuid, "deleted": True}
        if asks and not click.confirm(
            f"Delete '{machine.name}' ({machine.state}) and its disks?", err=True
        ):
            return found | {"deleted": False}
        with app.progress(passing=True) as progress:
            machine.delete(progress=progress)
        return found

    each(
        app,
        names,
        act,
        done=lambda found: f"{found['name']}: {'deleted' if found['deleted'] else 'kept'}",
    )
