"""Changing machines by intent: apply, set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.output import print_table
from vmctl.cli.specs import read_spec
from vmctl.cli.streams import asks_on_terminal

if TYPE_CHECKING:
    from vmctl.intent.planning import ChangePlan
    from vmctl.spec import VMSpec
    from vmctl.vm import VM

__all__ = ["apply", "set_"]

_dry_run = click.option("--dry-run", is_flag=True, help="Only show what differs.")
_live_only = click.option(
    "--live-only", is_flag=True, help="Leave out what would wait for the next start."
)
_skip_anew = click.option(
    "--skip-anew", is_flag=True, help="Leave out what only a new machine could have."
)
_yes = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


@command("apply")
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option("--name", metavar="NAME", help="The machine, instead of the spec's name.")
@_dry_run
@_live_only
@_skip_anew
@_yes
@pass_app
def apply(
    app: App,
    *,
    file: str,
    name: str | None,
    dry_run: bool,
    live_only: bool,
    skip_anew: bool,
    yes: bool,
) -> None:
    """Make a machine what the spec FILE says.

    Every difference is shown first, with when it can be had: live, at the next start, or only by
    making the machine anew. On a terminal you are asked. What others changed in the machine, and
    what vmctl does not manage, stays as it is. - reads FILE from stdin.
    """
    spec = read_spec(file, changes={} if name is None else {"name": name})
    with app.machine(spec.name) as machine:
        _change(
            app,
            machine,
            spec,
            dry_run=dry_run,
            live_only=live_only,
            skip_anew=skip_anew,
            asks=not yes and file != "-",
        )


@command("set")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@click.argument("assignments", nargs=-1, required=True, metavar="FIELD=VALUE...")
@_dry_run
@_live_only
@_yes
@pass_app
def set_(
    app: App,
    *,
    name: str,
    assignments: tuple[str, ...],
    dry_run: bool,
    live_only: bool,
    yes: bool,
) -> None:
    """Give fields of the machine NAME other values: memory=4GiB vcpus=4 disks.vdb.size=20GiB.

    FIELD is written as in a spec, devices by their names or places (disks[1].size); VALUE is YAML,
    and nothing after the = stands for null.
    """
    from vmctl.intent.assignments import parse  # noqa: PLC0415 - not before it is needed

    values = dict(map(parse, assignments))
    with app.machine(name) as machine:
        _change(
            app,
            machine,
            values,
            dry_run=dry_run,
            live_only=live_only,
            skip_anew=False,
            asks=not yes,
        )


def _change(
    app: App,
    machine: VM,
    wanted: VMSpec | dict[str, Any],
    *,
    dry_run: bool,
    live_only: bool,
    skip_anew: bool,
    asks: bool,
) -> None:
    plan = machine.compare(wanted)
    _warn(app, plan)
    if machine.saved and plan.differences:
        app.warn(f"{machine.name} has a saved state: its devices are not changed before it went on")
    left = _left_out(plan, live_only=live_only, skip_anew=skip_anew)
    data: dict[str, Any] = {**plan.as_dict(), "made": (), "waiting": (), "left": left}
    if app.wants_table and plan.differences:
        _print_differences(plan, left)
    if not plan.differences:
        app.note(f"{machine.name}: nothing to change")
    elif not dry_run:
        if asks and asks_on_terminal():
            otherwise = f"{machine.name}: nothing was changed"
            app.confirm(f"Change '{machine.name}' so?", otherwise=otherwise)
        with app.progress(passing=True) as progress:
            done = machine.apply(
                wanted, plan=plan, live_only=live_only, skip_anew=skip_anew, progress=progress
            )
        data |= {"made": done.made, "waiting": done.waiting, "left": done.left}
        app.note(_summary(machine.name, done))
    app.show(data, lambda: None)


def _left_out(plan: ChangePlan, *, live_only: bool, skip_anew: bool) -> tuple[str, ...]:
    """Return the paths of the differences that the options leave out."""
    omitted = {"next start"} if live_only else set()
    omitted |= {"anew"} if skip_anew else set()
    return tuple(entry.path for entry in plan.differences if entry.when.value in omitted)


def _print_differences(plan: ChangePlan, left: tuple[str, ...]) -> None:
    print_table(
        ("FIELD", "NOW", "WANTED", "WHEN"),
        [
            (
                entry.path,
                _shown(entry.before),
                _shown(entry.after),
                entry.when.value + (" (left out)" if entry.path in left else ""),
            )
            for entry in plan.differences
        ],
    )


def _shown(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(_given(value), ensure_ascii=False)


def _given(value: Any) -> Any:
    """Return a value without the fields that it leaves open: they only make a row long."""
    if isinstance(value, dict):
        return {name: _given(entry) for name, entry in value.items() if entry not in (None, [])}
    return [_given(entry) for entry in value] if isinstance(value, list | tuple) else value


def _warn(app: App, plan: ChangePlan) -> None:
    for entry in plan.drift:
        app.warn(
            f"{entry.path} was changed by others, and stays: "
            f"{entry.actual or 'gone'} instead of {entry.expected or 'nothing'}"
        )
    for entry in plan.pending:
        app.warn(
            f"{entry.path} waits for the next start: "
            f"{entry.expected or 'gone'} instead of {entry.actual or 'nothing'}"
        )


def _summary(name: str, done: Any) -> str:
    parts = [f"{len(done.made)} changed"]
    if done.waiting:
        parts.append(f"{len(done.waiting)} of them from the next start on")
    if done.left:
        parts.append(f"{len(done.left)} left out")
    return f"{name}: {', '.join(parts)}"
