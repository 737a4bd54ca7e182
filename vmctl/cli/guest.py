"""Inside the guest: wait, ssh, exec, logs."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.errors import transport
from vmctl.cli.lazy import Command, command
from vmctl.cli.machines import deadlines
from vmctl.cli.streams import given_stdin
from vmctl.errors import GuestUnreachableError

if TYPE_CHECKING:
    import paramiko

    from vmctl.vm import VM

__all__ = ["execute", "logs", "ssh", "wait"]

_name = click.argument("name", metavar="NAME", shell_complete=machine_names)
# All that follows the name, or --, belongs to the guest, options included.
_AS_IT_IS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


class _GuestCommand(Command):
    """A command whose arguments end with a command line of somebody else's.

    Its own options stand before the name, or between the name and ``--``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name behind the options, so that click looks no further than to it."""
        if "--" in args:
            cut = args.index("--")
            head = self._with_name_last(args[:cut])
            if head is not None:
                args = [*head, *args[cut:]]
        return super().parse_args(ctx, args)

    def _with_name_last(self, words: list[str]) -> list[str] | None:
        """Return the words in that order; None when they are not options and one name."""
        flags = {
            name: isinstance(parameter, click.Option) and parameter.is_flag
            for parameter in self.params
            for name in parameter.opts
        }
        options: list[str] = []
        names: list[str] = []
        rest = iter(words)
        for word in rest:
            option = word.partition("=")[0]
            if not word.startswith("-"):
                names.append(word)
            elif option not in flags:
                return None
            elif flags[option] or "=" in word:
                options.append(word)
            else:
                options += [word, *(value for value in (next(rest, None),) if value is not None)]
        return [*options, *names] if len(names) == 1 else None


@command("wait")
@_name
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="The longest that any phase of the waiting may take.",
)
@pass_app
def wait(app: App, name: str, timeout: float | None) -> None:
    """Wait until the guest of NAME is ready: address, SSH, and cloud-init's verdict."""
    with app.machine(name) as machine:
        with app.progress() as progress:
            machine.wait(deadlines=deadlines(timeout), progress=progress)
        found = {"name": machine.name, "uuid": machine.uuid, "state": machine.state}
    app.show(found, lambda: app.note(f"{machine.name}: ready"))


def _command_of(words: tuple[str, ...]) -> list[str]:
    return list(words[1:] if words[:1] == ("--",) else words)


def _variables(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for entry in given:
        variable, equals, value = entry.partition("=")
        if not equals and variable not in os.environ:
            raise click.BadParameter(f"there is no variable {variable} here", param_hint="--env")
        found[variable] = value if equals else os.environ[variable]
    return found


def _log_in(app: App, machine: VM) -> paramiko.Channel:
    from vmctl.progress import Reporter  # noqa: PLC0415 - not before it is needed

    with app.progress(passing=True) as progress, Reporter(machine.name, progress).phase("ssh"):
        return machine.open_channel()


@command("ssh", cls=_GuestCommand, context_settings=_AS_IT_IS)
@_name
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--tty", "-t", is_flag=True, help="Give the command a terminal, as `ssh -t` does.")
@pass_app
def ssh(app: App, name: str, words: tuple[str, ...], tty: bool) -> None:
    """Open a shell in the guest of NAME, or run a COMMAND line in its shell.

    The host key is the one that vmctl gave the guest. In a shell, Enter ~ . ends a connection
    that hangs. The exit code is the guest's own, 255 when it can't be reached.
    """
    command_line = " ".join(_command_of(words)) or None
    from vmctl.guest import shell  # noqa: PLC0415 - not before it is needed

    with app.machine(name) as machine, transport():
        channel = _log_in(app, machine)
        stdin = given_stdin()
        on_terminal = stdin is not None and stdin.isatty() and sys.stdout.isatty()
        if on_terminal and (tty or command_line is None):
            status = shell.interact(channel, command=command_line)
        else:
            status = shell.pass_through(channel, command=command_line, stdin=stdin)
    raise click.exceptions.Exit(status)


@command("exec", cls=_GuestCommand, context_settings=_AS_IT_IS)
@_name
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long the command may take.",
)
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A variable for the command; without a value the one that it has here.",
)
@click.option("--cwd", metavar="FOLDER", help="The folder to run it in.")
@click.option("--user", metavar="USER", help="The user to run it as, by sudo.")
@pass_app
def execute(
    app: App,
    name: str,
    words: tuple[str, ...],
    *,
    timeout: float | None,
    env: tuple[str, ...],
    cwd: str | None,
    user: str | None,
) -> None:
    """Run a COMMAND in the guest of NAME, word for word.

    The words reach the command as they are; for a pipe write: sh -c 'one | two'. Its output comes
    as it is written. stdin is passed on unless it is a terminal. Where SSH can't be had, the
    guest's agent runs it. The exit code is the guest's own, 255 when it can't be reached.
    """
    command_words = _command_of(words)
    if not command_words:
        raise click.UsageError("there is no COMMAND to run", click.get_current_context())
    stdin = given_stdin()
    if stdin is not None and stdin.isatty():
        stdin = None
    from vmctl.guest import shell, surroundings  # noqa: PLC0415 - not before it is needed

    variables = _variables(env)
    line, preamble = surroundings.surround(
        shlex.join(command_words), env=variables, cwd=cwd, user=user
    )
    with app.machine(name) as machine, transport():
        try:
            channel = _log_in(app, machine)
        except GuestUnreachableError as error:
            if app.verbose:
                app.note(f"{error.brief}; trying its agent")
            done = machine.run(
                command_words,
                stdin=b"" if stdin is None else stdin,
                timeout=timeout,
                env=variables,
                cwd=cwd,
                user=user,
                via="agent",
            )
            click.echo(done.stdout, nl=False)
            click.echo(done.stderr, nl=False, err=True)
            status = done.exit_status
        else:
            status = shell.pass_through(
                channel, command=line, stdin=stdin, timeout=timeout, preamble=preamble
            )
    raise click.exceptions.Exit(status)


@command("logs")
@_name
@click.option(
    "--lines", "-n", type=click.IntRange(min=0), metavar="N", help="Only the last N lines."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is being written.")
@click.option("--all", "older", is_flag=True, help="Begin with the older parts of a long log.")
@pass_app
def logs(app: App, *, name: str, lines: int | None, follow: bool, older: bool) -> None:
    """Print what the guest of NAME wrote to its serial console.

    With --follow it goes on until Ctrl-C, or until the machine is deleted.
    """
    if follow and older:
        raise click.UsageError("--follow goes on, and --all ends", click.get_current_context())
    if follow and not app.wants_table:
        raise click.UsageError("--follow prints lines, no document", click.get_current_context())
    with app.machine(name) as machine:
        if follow:
            _follow(app, machine, lines)
            return
        text = machine.console_log(older=older)
    if lines is not None:
        text = "".join(text.splitlines(keepends=True)[-lines:] if lines else [])
    app.show(
        {"name": machine.name, "log": text},
        lambda: click.echo(text, nl=bool(text) and not text.endswith("\n")),
    )


def _follow(app: App, machine: VM, lines: int | None) -> None:
    try:
        for line in machine.console.follow(lines=lines):
            click.echo(line)
    except KeyboardInterrupt as error:
        # That is how it is ended.
        raise click.exceptions.Exit(128 + getattr(error, "number", signal.SIGINT)) from error
    app.note(f"{machine.name}: the machine is deleted, and its log with it")
