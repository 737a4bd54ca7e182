"""Groups whose commands are imported when they are called, and options that stand anywhere."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import click

from vmctl.cli.context import App
from vmctl.cli.settings import FORMATS

__all__ = ["Command", "LazyGroup", "command", "global_options"]

Lines = Mapping[str, Mapping[str, str]]


def _set_flag(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    if value is not None and value is not False:
        app = context.ensure_object(App)
        if parameter.name in {"debug", "verbose", "quiet"}:
            setattr(app, parameter.name, True)
        else:
            app.flags[str(parameter.name)] = value
    return value


def global_options(*, hidden: bool) -> list[click.Parameter]:
    """Return the options that every command takes, before its name as well as after it."""

    def option(*names: str, **more: Any) -> click.Option:
        # Eager ones are handled first: --debug counts whatever else is wrong.
        return click.Option(
            names, callback=_set_flag, expose_value=False, is_eager=True, hidden=hidden, **more
        )

    return [
        option("--uri", "-c", metavar="URI", help="The host: a libvirt URI, or private:NAME."),
        option("--format", "-f", type=click.Choice(FORMATS), help="How data is printed."),
        option("--pool", metavar="POOL", help="The storage pool for new volumes."),
        option("--verbose", "-v", is_flag=True, help="Say more, and report progress in a pipe."),
        option("--quiet", "-q", is_flag=True, help="Say nothing but data and errors."),
        option("--debug", is_flag=True, help="Print tracebacks."),
    ]


class Command(click.Command):
    """A command that takes the global options too, without listing them in its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("epilog", "The options that `vmctl --help` lists can stand here too.")
        super().__init__(*args, **kwargs)
        taken = {name for parameter in self.params for name in parameter.opts}
        for option in global_options(hidden=True):
            # A command may need a letter for something of its own: `logs -f` follows.
            option.opts = [name for name in option.opts if name not in taken]
            if option.opts:
                self.params.append(option)


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a `Command` of a function."""
    attributes.setdefault("cls", Command)
    return click.command(name, **attributes)


class LazyGroup(click.Group):
    """A group that knows where its commands are, and imports one when it is called.

    Args:
        sections: Heading to command to ``module:attribute``.
    """

    def __init__(self, *args: Any, sections: Lines, **kwargs: Any) -> None:
        kwargs.setdefault("invoke_without_command", True)
        kwargs.setdefault("subcommand_metavar", "COMMAND ...")
        super().__init__(*args, **kwargs)
        self._sections = sections
        self._places = {name: place for lines in sections.values() for name, place in lines.items()}
        if self.callback is None:
            self.callback = _help_when_alone
        for option in global_options(hidden=bool(self.name != "vmctl")):
            self.params.append(option)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order of the help."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, click.Command):  # pragma: no cover - a mistake in the table
            raise TypeError(f"{place} is no command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called.

        Raises:
            click.UsageError: There is none of that name; close ones are suggested.
        """
        if args and args[0] not in self._places and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self._places, n=2)
            tail = f"; did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"there is no command '{args[0][:80]}'{tail}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, by their sections."""
        width = max(map(len, self._places))
        for heading, lines in self._sections.items():
            rows = []
            for name in lines:
                found = self.get_command(ctx, name)
                if found is not None:
                    rows.append((name.ljust(width), found.get_short_help_str(limit=100)))
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.pass_context
def _help_when_alone(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
