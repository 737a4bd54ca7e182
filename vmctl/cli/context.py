"""What every command has at hand: the settings, the host, and a way to show what goes on."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from vmctl.cli.errors import complain, say
from vmctl.cli.output import plain, print_document
from vmctl.cli.settings import Settings, load_settings
from vmctl.errors import NotFoundError, VmctlError

if TYPE_CHECKING:
    from vmctl.host import Host
    from vmctl.progress import ProgressCallback
    from vmctl.vm import VM

__all__ = ["App", "each", "machine_names", "pass_app"]


@dataclass
class App:
    """One run of the command line.

    Attributes:
        flags: The settings that were given as flags.
        debug: Whether to print tracebacks.
        verbose: Whether to say more, and to report progress in a pipe too.
        quiet: Whether to say nothing but errors and data.
    """

    flags: dict[str, str | None] = field(default_factory=dict)
    debug: bool = False
    verbose: bool = False
    quiet: bool = False
    _settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """The settings; read when a command first asks."""
        if self._settings is None:
            self._settings = load_settings(self.flags)
        return self._settings

    @property
    def wants_table(self) -> bool:
        """Whether the output is for people."""
        return self.settings.format == "table"

    def connect(self) -> Host:
        """Return the host, for a ``with`` block."""
        settings = self.settings
        from vmctl.host import connect  # noqa: PLC0415 - not before it is needed

        return connect(settings.uri, pool=settings.pool)

    def find(self, host: Host, name: str) -> VM:
        """Return a machine; when there is none, the error suggests names that are close.

        Raises:
            NotFoundError: There is none.
        """
        try:
            return host.get(name)
        except NotFoundError as error:
            names = [machine.name for machine in host.list()]
            near = difflib.get_close_matches(name, names, n=3)
            raise NotFoundError(
                f"there is no machine '{name[:80]}' at {host.uri}",
                hint=f"did you mean {' or '.join(near)}?" if near else error.hint,
            ) from error

    @contextmanager
    def machine(self, name: str) -> Iterator[VM]:
        """Give one machine of the host."""
        with self.connect() as host:
            yield self.find(host, name)

    @contextmanager
    def progress(self, *, passing: bool = False) -> Iterator[ProgressCallback | None]:
        """Give a callback that shows progress while the block runs.

        Args:
            passing: Whether what was drawn is wiped away at the end.
        """
        from vmctl.cli.progress import drawer  # noqa: PLC0415 - few commands wait
        from vmctl.cli.remarks import told_afterwards  # noqa: PLC0415

        with (
            told_afterwards(self.warn),
            drawer(verbose=self.verbose, quiet=self.quiet, passing=passing) as callback,
        ):
            yield callback

    def note(self, text: str) -> None:
        """Tell people what was done; programs read the data."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Tell people what they should know, though it is no error."""
        if not self.quiet:
            say(text, bold="warning:", color="yellow")

    def confirm(self, question: str, *, otherwise: str) -> None:
        """Ask on the terminal; after a no, the command ends with status 1.

        Args:
            question: What is asked.
            otherwise: What is said after a no.
        """
        if not click.confirm(question, err=True):
            self.note(otherwise)
            raise click.exceptions.Exit(1)

    def show(self, value: Any, table: Callable[[], None]) -> None:
        """Print data, in the format that was asked for."""
        if self.wants_table:
            table()
        else:
            print_document(value, self.settings.format)


pass_app = click.make_pass_decorator(App, ensure=True)


def each(
    app: App, names: Sequence[str], act: Callable[[VM], Any], *, done: Callable[[Any], str]
) -> None:
    """Do something to several machines, one after another.

    All names are looked up before anything is done. One that fails doesn't keep the others from
    it; the exit code is that of the first failure.

    Args:
        app: The run.
        names: The machines.
        act: What to do; returns what is printed as data.
        done: Says it for people, from what ``act`` returned.
    """
    results, failures = [], []
    with app.connect() as host:
        machines = [app.find(host, name) for name in dict.fromkeys(names)]
        for machine in machines:
            try:
                result = act(machine)
            except VmctlError as error:
                failures.append(error)
                if len(machines) > 1:
                    complain(error)
                continue
            results.append(plain(result))
            if app.wants_table:
                app.note(done(result))
    if not app.wants_table:
        print_document(results, app.settings.format)
    if failures and len(machines) == 1:
        raise failures[0]
    if failures:
        raise click.exceptions.Exit(failures[0].exit_code)


def machine_names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the names of machines, for the shell's completion; never an error."""
    flags = {
        name: value
        for name in ("uri", "pool")
        if isinstance(value := context.find_root().params.get(name), str)
    }
    try:
        with App(flags=dict(flags)).connect() as host:
            return [entry.name for entry in host.list() if entry.name.startswith(incomplete)]
    except Exception as error:  # noqa: BLE001 - a shell that completes has no room for errors
        if "--debug" in sys.argv:
            say(str(error))
        return []
