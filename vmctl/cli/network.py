"""Networks: create, list, info, apply, start, stop, delete."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import print_fields, print_table
from vmctl.cli.specs import read_network_spec
from vmctl.cli.streams import asks_on_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.networking.comparing import NetworkPlan
    from vmctl.networks import NetworkApplied, NetworkInfo, NetworkLease, NetworkReservation

__all__ = ["apply", "create", "delete", "info", "list_networks", "network", "start", "stop"]

network = LazyGroup(
    "network",
    sections={
        "Commands": {
            "create": f"{__name__}:create",
            "list": f"{__name__}:list_networks",
            "info": f"{__name__}:info",
            "apply": f"{__name__}:apply",
            "start": f"{__name__}:start",
            "stop": f"{__name__}:stop",
            "delete": f"{__name__}:delete",
        }
    },
    help="Make, list and remove networks.",
)

_name = click.argument("name", metavar="NAME")


def _print(found: Sequence[NetworkInfo]) -> None:
    print_table(
        ("NAME", "MODE", "STATE", "AUTOSTART", "BRIDGE", "SUBNETS", "TENANT", "MACHINES"),
        [
            (
                entry.name,
                entry.mode,
                entry.state,
                "yes" if entry.autostart else "no",
                entry.bridge,
                ", ".join(entry.subnets),
                entry.tenant or ("(shared)" if entry.shared else ""),
                str(len(entry.machines)),
            )
            for entry in found
        ],
    )


@command("create")
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@pass_app
def create(app: App, file: str) -> None:
    """Make the network that the spec FILE describes, start it, and start it with the host.

    FILE is YAML; - reads it from stdin. If anything fails, all of it is undone.
    """
    spec = read_network_spec(file)
    with app.connect() as host:
        made = host.networks.create(spec)
    app.show(made, lambda: _print([made]))


@command("list")
@click.option("--tenant", metavar="TENANT", help="Only those that machines of TENANT may join.")
@pass_app
def list_networks(app: App, tenant: str | None) -> None:
    """List the networks of the host, whoever made them."""
    with app.connect() as host:
        found = host.networks.list(tenant=tenant)
    app.show(found, lambda: _print(found))


def _print_one(
    found: NetworkInfo,
    leases: Sequence[NetworkLease],
    reservations: Sequence[NetworkReservation],
) -> None:
    print_fields(
        [
            ("name", found.name),
            ("uuid", found.uuid),
            ("mode", found.mode),
            ("state", found.state),
            ("autostart", "yes" if found.autostart else "no"),
            ("persistent", "yes" if found.persistent else "no"),
            ("made by vmctl", "yes" if found.made_by_vmctl else "no"),
            ("tenant", found.tenant),
            ("shared", "yes" if found.shared else ""),
            ("bridge", found.bridge),
            ("domain", found.domain),
            ("mtu", str(found.mtu or "")),
            ("subnets", ", ".join(found.subnets)),
            ("dhcp", ", ".join(found.dhcp)),
            ("machines", ", ".join(found.machines)),
            *(
                ("reserved", " ".join(filter(None, (kept.address, kept.mac, kept.name))))
                for kept in reservations
            ),
            *(("lease", f"{lease.address} {lease.mac} {lease.name}".rstrip()) for lease in leases),
        ]
    )


@command("info")
@_name
@pass_app
def info(app: App, name: str) -> None:
    """Show all that is known of the network NAME, and the addresses of its guests.

    What is reserved is kept for a guest, be it there or not; a lease is what one was given.
    """
    with app.connect() as host:
        found = host.networks.info(name)
        leases = host.networks.leases(name)
        reservations = host.networks.reservations(name)
    data = {
        **asdict(found),
        "leases": [asdict(lease) for lease in leases],
        "reservations": [asdict(kept) for kept in reservations],
    }
    app.show(data, lambda: _print_one(found, leases, reservations))


@command("apply")
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option("--dry-run", is_flag=True, help="Only show what differs.")
@click.option("--restart", is_flag=True, help="Restart it for what waits for that.")
@click.option("--force", is_flag=True, help="Cut off running guests when it is restarted.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@pass_app
def apply(app: App, *, file: str, dry_run: bool, restart: bool, force: bool, yes: bool) -> None:
    """Make a network what the spec FILE says; one that is not there is made.

    Every difference is shown first, with when it can be had: live, when the network is restarted,
    or only by making it anew. On a terminal you are asked. What others changed in the network stays
    as it is. - reads FILE from stdin.
    """
    if force and not restart:
        raise click.UsageError("--force says how to restart it: give --restart too")
    spec = read_network_spec(file)
    with app.connect() as host:
        plan = host.networks.compare(spec)
        _show_plan(app, plan)
        data: dict[str, Any] = {**plan.as_dict(), "made": (), "waiting": (), "network": None}
        if dry_run:
            if not plan.exists:
                app.note(f"{spec.name}: would be made")
        else:
            asks = not yes and file != "-" and bool(plan.differences or restart)
            if asks and asks_on_terminal():
                otherwise = f"{spec.name}: nothing was changed"
                app.confirm(f"Change the network '{spec.name}' so?", otherwise=otherwise)
            done = host.networks.apply(spec, plan=plan, restart=restart, force=force)
            data |= {"made": done.made, "waiting": done.waiting, "network": asdict(done.network)}
            _tell(app, done)
    app.show(data, lambda: None)


def _show_plan(app: App, plan: NetworkPlan) -> None:
    for path in plan.drift:
        app.warn(f"{path} was changed by others, and stays")
    if app.wants_table and plan.differences:
        print_table(
            ("FIELD", "NOW", "WANTED", "WHEN"),
            [(e.path, e.before, e.after, e.when.value) for e in plan.differences],
        )
    if plan.exists and not plan.differences:
        app.note(f"{plan.name}: nothing to change")


def _tell(app: App, done: NetworkApplied) -> None:
    if not done.plan.exists:
        app.note(f"{done.plan.name}: made")
    elif done.made:
        app.note(f"{done.plan.name}: {len(done.made)} changed")
    if done.waiting:
        app.warn(f"{', '.join(done.waiting)}: had when the network is restarted (--restart)")


@command("start")
@_name
@pass_app
def start(app: App, name: str) -> None:
    """Start the network NAME. One that is active is a success."""
    with app.connect() as host:
        found = host.networks.start(name)
    app.show(found, lambda: app.note(f"{name}: {found.state}"))


@command("stop")
@_name
@click.option("--force", is_flag=True, help="Cut off the guests that are plugged into it.")
@pass_app
def stop(app: App, name: str, force: bool) -> None:
    """Stop the network NAME, unless running guests are plugged into it.

    One that is inactive is a success. It starts again with the host, or when a machine needs it.
    """
    with app.connect() as host:
        found = host.networks.stop(name, force=force)
    app.show(found, lambda: app.note(f"{name}: {found.state}"))


@command("delete")
@_name
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@pass_app
def delete(app: App, name: str, yes: bool) -> None:
    """Stop and remove the network NAME, which vmctl made and no machine is on.

    On a terminal it asks first.
    """
    with app.connect() as host:
        host.networks.info(name)
        deleted = (
            yes
            or not asks_on_terminal()
            or click.confirm(f"Delete the network '{name}'?", err=True)
        )
        if deleted:
            host.networks.delete(name)
    app.show(
        {"name": name, "deleted": deleted},
        lambda: app.note(f"{name}: {'deleted' if deleted else 'kept'}"),
    )
