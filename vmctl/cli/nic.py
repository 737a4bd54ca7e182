"""NICs of a machine: list, attach, detach, link, limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.devices.nics import AttachedNic

__all__ = ["attach", "detach", "limit", "link", "list_nics", "nic"]

nic = LazyGroup(
    "nic",
    sections={
        "Commands": {
            "list": f"{__name__}:list_nics",
            **{verb: f"{__name__}:{verb}" for verb in ("attach", "detach", "link", "limit")},
            "filter": f"{__name__}:filter_nic",
        }
    },
    help="List, attach, detach and limit the NICs of a machine, running or not, and their cables. "
    "A NIC is called by its MAC address.",
)

_name = click.argument("name", metavar="NAME", shell_complete=machine_names)
_mac = click.argument("mac", metavar="MAC")
_next_start = click.option(
    "--next-start", is_flag=True, help="Leave a running machine as it is until it is started again."
)


def _rates(entry: AttachedNic) -> str:
    return " ".join(
        f"{way}:{'/'.join(str(value) for value in rate.values())}"
        for way, rate in entry.bandwidth.items()
    )


def _print(found: Sequence[AttachedNic]) -> None:
    print_table(
        ("MAC", "TYPE", "SOURCE", "MODEL", "LINK", "NOW", "LATER", "BANDWIDTH"),
        [
            (
                entry.mac,
                entry.type,
                entry.source,
                entry.model,
                entry.link,
                "yes" if entry.now else "",
                "yes" if entry.later else "",
                _rates(entry),
            )
            for entry in found
        ],
    )


@command("list")
@_name
@pass_app
def list_nics(app: App, name: str) -> None:
    """List the NICs that NAME has now, or will have at its next start."""
    with app.machine(name) as machine:
        found = machine.nics.list()
    app.show(found, lambda: _print(found))


@command("attach")
@_name
@click.option("--network", metavar="NETWORK", help="The libvirt network to join.")
@click.option("--bridge", metavar="BRIDGE", help="Or the host's bridge to join.")
@click.option("--user", is_flag=True, help="Or QEMU's own user-mode network.")
@click.option("--model", metavar="MODEL", help="The hardware that the guest sees.")
@click.option("--mac", metavar="MAC", help="Its MAC address; vmctl chooses one if not given.")
@click.option(
    "--reserve",
    metavar="ADDRESS",
    help="The address that the network's DHCP server keeps for it; or yes, or no.",
)
@_next_start
@pass_app
def attach(app: App, /, name: str, next_start: bool, **given: Any) -> None:
    """Attach a NIC to NAME."""
    from vmctl.spec import NicSpec  # noqa: PLC0415 - not before it is needed

    if sum(bool(given[way]) for way in ("network", "bridge", "user")) != 1:
        raise click.UsageError("give one of --network, --bridge and --user")
    reserve = given.pop("reserve")
    wanted = {key: value for key, value in given.items() if value}
    if reserve is not None:
        wanted["reserve"] = {"yes": True, "no": False}.get(reserve, reserve)
    spec = NicSpec.model_validate(wanted)
    with app.machine(name) as machine, app.progress(passing=True) as progress:
        made = machine.nics.attach(spec, next_start=next_start, progress=progress)
    app.show(made, lambda: _print([made]))


@command("detach")
@_name
@_mac
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="SECONDS",
    help="How long the guest has to let go of it (30).",
)
@_next_start
@pass_app
def detach(app: App, /, name: str, mac: str, **options: Any) -> None:
    """Detach the NIC with the address MAC from NAME, when its guest lets go of it."""
    with app.machine(name) as machine, app.progress(passing=True) as progress:
        gone = machine.nics.detach(mac, progress=progress, **options)
    app.show(gone, lambda: app.note(f"{name}: detached {gone.mac}"))


@command("link")
@_name
@_mac
@click.argument("state", type=click.Choice(["up", "down"]))
@_next_start
@pass_app
def link(app: App, name: str, mac: str, state: str, next_start: bool) -> None:
    """Plug the cable of the NIC MAC of NAME in (up) or out (down), as its guest sees it."""
    with app.machine(name) as machine:
        changed = machine.nics.set_link(mac, up=state == "up", next_start=next_start)
    app.show(changed, lambda: _print([changed]))


@command("limit")
@_name
@_mac
@click.option("--inbound", metavar="RATE", help="What the guest receives: AVERAGE[,PEAK[,BURST]].")
@click.option("--outbound", metavar="RATE", help="What the guest sends: AVERAGE[,PEAK[,BURST]].")
@click.option("--none", is_flag=True, help="Take all limits away.")
@_next_start
@pass_app
def limit(
    app: App, /, name: str, mac: str, none: bool, next_start: bool, **rates: str | None
) -> None:
    """Limit what the NIC MAC of NAME carries, in KiB (a second); it replaces all limits."""
    from vmctl.spec import BandwidthSpec  # noqa: PLC0415 - not before it is needed

    wanted = {way: _rate(text) for way, text in rates.items() if text is not None}
    if none == bool(wanted):
        raise click.UsageError("give --inbound, --outbound, or --none to take the limits away")
    with app.machine(name) as machine:
        bandwidth = BandwidthSpec.model_validate(wanted) if wanted else None
        changed = machine.nics.set_bandwidth(mac, bandwidth, next_start=next_start)
    app.show(changed, lambda: _print([changed]))


def _rate(text: str) -> dict[str, str]:
    values = text.split(",")
    if len(values) > 3:
        raise click.UsageError(f"{text[:40]!r} is no rate; write AVERAGE, or AVERAGE,PEAK,BURST")
    return dict(zip(("average", "peak", "burst"), values, strict=False))


@command("filter")
@_name
@_mac
@click.option(
    "--antispoofing/--no-antispoofing",
    default=None,
    help="Whether the guest can send by its own addresses only.",
)
@click.option(
    "--group", "groups", multiple=True, metavar="GROUP", help="A security group; repeatable."
)
@click.option("--no-groups", is_flag=True, help="Take it out of all security groups.")
@_next_start
@pass_app
def filter_nic(
    app: App,
    /,
    name: str,
    mac: str,
    groups: tuple[str, ...],
    no_groups: bool,
    **options: Any,
) -> None:
    """Say what the NIC MAC of NAME may send, and in which security groups it is from then on.

    What is not given stays as it is. Connections that there are go on.
    """
    if groups and no_groups:
        raise click.UsageError("--group and --no-groups contradict each other")
    if options["antispoofing"] is None and not groups and not no_groups:
        raise click.UsageError("give --antispoofing, --no-antispoofing, --group or --no-groups")
    with app.machine(name) as machine:
        wanted = groups if groups or no_groups else None
        changed = machine.nics.set_filters(mac, security_groups=wanted, **options)
    app.show(changed, lambda: _print([changed]))
