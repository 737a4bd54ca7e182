"""Power: start, stop, restart, reset, pause, resume, save."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, each, machine_names, pass_app
from vmctl.cli.lazy import command

if TYPE_CHECKING:
    from vmctl.progress import ProgressCallback
    from vmctl.vm import VM

__all__ = ["discard_saved", "names", "pause", "reset", "restart", "resume", "save", "start", "stop"]

names = click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=machine_names
)
_wait = click.option("--wait", is_flag=True, help="Return when the guest is ready.")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the guest has to shut down.",
)
_force = click.option("--force", is_flag=True, help="Pull the plug after that.")

# What the state alone doesn't show.
_SAYS = {
    "saved": {True: "saved"},
    "discarded": {True: "its saved state is gone", False: "it had no saved state"},
    "autostart": {True: "starts with its host", False: "doesn't start with its host"},
}


def do(
    app: App,
    chosen: tuple[str, ...],
    change: Callable[[VM], dict[str, Any] | None],
    *,
    said: str = "",
) -> None:
    """Do something to machines; what it returns is printed beside their names and states.

    Args:
        app: The run.
        chosen: The machines.
        change: What to do; returns what JSON has of it.
        said: What people are told of it, where the state doesn't show it.
    """

    def act(machine: VM) -> dict[str, Any]:
        more = change(machine)
        common = {"name": machine.name, "uuid": machine.uuid, "state": machine.state}
        return common | (more or {})

    each(app, chosen, act, done=partial(_line, said=said))


def _line(found: dict[str, Any], *, said: str = "") -> str:
    """Say what became of a machine, and how, where that is not what everybody expects."""
    notes = [said] if said else []
    if stopped := found.get("stopped"):
        notes += [] if stopped["ended_by"] == "was off" else [stopped["ended_by"]]
        notes += ["with a saved state"] if stopped["saved"] else []
    if started := found.get("started"):
        notes += ["restored"] if started["how"] == "restored" else []
        behind = started["clock"] not in {"", "set"}
        notes += [f"its clock was not set: {started['clock']}"] if behind else []
    notes += [says[found[key]] for key, says in _SAYS.items() if found.get(key) in says]
    return f"{found['name']}: {found['state']}" + (f" ({', '.join(notes)})" if notes else "")


def _do_waiting(
    app: App,
    chosen: tuple[str, ...],
    change: Callable[[VM, ProgressCallback | None], dict[str, Any] | None],
) -> None:
    def with_progress(machine: VM) -> dict[str, Any] | None:
        with app.progress() as progress:
            return change(machine, progress)

    do(app, chosen, with_progress)


@command("start")
@names
@_wait
@click.option(
    "--discard-saved",
    is_flag=True,
    help="Boot machines anew; what was saved of their memory is lost.",
)
@pass_app
def start(app: App, names: tuple[str, ...], wait: bool, discard_saved: bool) -> None:
    """Start machines; ones that run are left so, ones that are paused go on.

    One that was saved goes on from where it was, unless its saved state is discarded.
    """

    def change(machine: VM, progress: ProgressCallback | None) -> dict[str, Any]:
        report = machine.start(discard_saved=discard_saved, progress=progress)
        if wait:
            machine.wait(progress=progress)
        return {"started": vars(report)}

    _do_waiting(app, names, change)


@command("stop")
@names
@_timeout
@_force
@pass_app
def stop(app: App, names: tuple[str, ...], timeout: float, force: bool) -> None:
    """Shut machines down: by their agents, then by the power button.

    A guest that doesn't stop in time is left running, and the exit code is 6; with --force the
    plug is pulled then. --force --timeout 0 pulls it at once.
    """

    def change(machine: VM, progress: ProgressCallback | None) -> dict[str, Any]:
        return {"stopped": _plain(machine.stop(timeout=timeout, force=force, progress=progress))}

    _do_waiting(app, names, change)


def _plain(report: Any) -> dict[str, Any]:
    return {**vars(report), "steps": [vars(step) for step in report.steps]}


@command("restart")
@names
@_timeout
@_force
@_wait
@pass_app
def restart(app: App, names: tuple[str, ...], timeout: float, force: bool, wait: bool) -> None:
    """Stop machines as `stop` does, and start them again."""

    def change(machine: VM, progress: ProgressCallback | None) -> dict[str, Any]:
        report = machine.restart(timeout=timeout, force=force, progress=progress)
        if wait:
            machine.wait(progress=progress)
        return {"stopped": _plain(report)}

    _do_waiting(app, names, change)


@command("reset")
@names
@pass_app
def reset(app: App, names: tuple[str, ...]) -> None:
    """Press the reset button of machines: their guests boot anew, without ending in order."""
    do(app, names, lambda machine: machine.reset(), said="reset")


@command("pause")
@names
@pass_app
def pause(app: App, names: tuple[str, ...]) -> None:
    """Stop the processors of machines; `resume` lets them go on."""
    do(app, names, lambda machine: machine.pause())


@command("resume")
@names
@pass_app
def resume(app: App, names: tuple[str, ...]) -> None:
    """Let paused machines go on."""
    do(app, names, lambda machine: machine.resume())


@command("save")
@names
@pass_app
def save(app: App, names: tuple[str, ...]) -> None:
    """Write the memory of machines to the host's disk, and end them; `start` goes on from there."""

    def change(machine: VM, progress: ProgressCallback | None) -> dict[str, Any]:
        machine.save(progress=progress)
        return {"saved": machine.saved}

    _do_waiting(app, names, change)


@command("discard-saved")
@names
@pass_app
def discard_saved(app: App, names: tuple[str, ...]) -> None:
    """Give up what was saved of the memory of machines; their next start boots them."""
    do(app, names, lambda machine: {"discarded": machine.discard_saved()})
