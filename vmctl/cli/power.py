"""Power: start, stop, restart, pause, resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.context import App, each, machine_names, pass_app
from vmctl.cli.lazy import command

if TYPE_CHECKING:
    from vmctl.progress import ProgressCallback
    from vmctl.vm import VM

__all__ = ["pause", "restart", "resume", "start", "stop"]

_names = click.argument(
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


def _do(app: App, names: tuple[str, ...], change: Callable[[VM], Any]) -> None:
    def act(machine: VM) -> dict[str, str]:
        change(machine)
        return {"name": machine.name, "uuid": machine.uuid, "state": machine.state}

    each(app, names, act, done=lambda found: f"{found['name']}: {found['state']}")


def _do_waiting(
    app: App,
    names: tuple[str, ...],
    change: Callable[[VM, ProgressCallback | None], Any],
) -> None:
    def with_progress(machine: VM) -> None:
        with app.progress() as progress:
            change(machine, progress)

    _do(app, names, with_progress)


@command("start")
@_names
@_wait
@pass_app
def start(app: App, names: tuple[str, ...], wait: bool) -> None:
    """Start machines; ones that run are left so, ones that are paused go on."""

    def change(machine: VM, progress: ProgressCallback | None) -> None:
        machine.start()
        if wait:
            machine.wait(progress=progress)

    _do_waiting(app, names, change)


@command("stop")
@_names
@_timeout
@_force
@pass_app
def stop(app: App, names: tuple[str, ...], timeout: float, force: bool) -> None:
    """Shut machines down: by their agents, then by the power button.

    A guest that doesn't stop in time is left running, and the exit code is 6; with --force the
    plug is pulled then. --force --timeout 0 pulls it at once.
    """
    _do_waiting(
        app,
        names,
        lambda machine, progress: machine.stop(timeout=timeout, force=force, progress=progress),
    )


@command("restart")
@_names
@_timeout
@_force
@_wait
@pass_app
def restart(app: App, names: tuple[str, ...], timeout: float, force: bool, wait: bool) -> None:
    """Stop machines as `stop` does, and start them again."""

    def change(machine: VM, progress: ProgressCallback | None) -> None:
        machine.restart(timeout=timeout, force=force, progress=progress)
        if wait:
            machine.wait(progress=progress)

    _do_waiting(app, names, change)


@command("pause")
@_names
@pass_app
def pause(app: App, names: tuple[str, ...]) -> None:
    """Stop the processors of machines; `resume` lets them go on."""
    _do(app, names, lambda machine: machine.pause())


@command("resume")
@_names
@pass_app
def resume(app: App, names: tuple[str, ...]) -> None:
    """Let paused machines go on."""
    _do(app, names, lambda machine: machine.resume())
