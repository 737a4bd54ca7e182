"""Machines out to files and in again: export, import."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from vmctl.cli.context import App, machine_names, pass_app
from vmctl.cli.lazy import command
from vmctl.cli.output import print_table
from vmctl.cli.progress import aside
from vmctl.cli.specs import read_spec
from vmctl.cli.streams import asks_on_terminal, given_stdin
from vmctl.errors import UsageError

if TYPE_CHECKING:
    from vmctl.transfer.importing import Incoming

__all__ = ["export", "import_"]

_OUT = ("qcow2", "raw", "vmdk", "ova", "bundle")
_IN = ("qcow2", "raw", "vmdk", "vdi", "vhd", "vhdx", "ova", "ovf", "bundle")
_SUFFIXES = {
    ".qcow2": "qcow2",
    ".raw": "raw",
    ".img": "raw",
    ".vmdk": "vmdk",
    ".ova": "ova",
    ".vmctl": "bundle",
}


@command("export")
@click.argument("name", metavar="NAME", shell_complete=machine_names)
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option("--as", "form", type=click.Choice(_OUT), help="The format; else by FILE's ending.")
@click.option("--replace", is_flag=True, help="Replace a FILE that is there.")
@pass_app
def export(app: App, name: str, file: str, form: str | None, replace: bool) -> None:
    """Write the machine NAME, which must be off, to FILE.

    FILE is a bundle (.vmctl), an OVA, or a disk (.qcow2, .raw, .vmdk); a folder with a file for
    each when there are several disks. - writes a bundle to stdout.
    """
    chosen = form or ("bundle" if file == "-" else _SUFFIXES.get(Path(file).suffix.lower()))
    if chosen is None:
        raise UsageError(
            f"{file!r} does not say which format is meant",
            hint=f"add --as with one of: {', '.join(_OUT)}",
        )
    target: str | BinaryIO = file
    if file == "-":
        if sys.stdout is None or sys.stdout.isatty():
            raise UsageError("a terminal can't show a bundle", hint="write it to a file or a pipe")
        target = sys.stdout.buffer
    with app.machine(name) as machine:
        with app.progress(passing=True) as progress:
            warnings = machine.export(target, format=chosen, replace=replace, progress=progress)
        for warning in warnings:
            app.warn(warning)
        done = {"name": machine.name, "file": file, "format": chosen, "warnings": warnings}
    if file != "-":
        app.show(done, lambda: app.note(f"{done['name']}: exported to {file}"))


@command("import")
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option("--name", metavar="NAME", help="The machine's name, instead of the one it had.")
@click.option("--as", "form", type=click.Choice(_IN), help="What FILE is; else what it looks like.")
@click.option(
    "--spec", "spec_file", type=click.Path(), metavar="SPEC", help="A spec to use for the machine."
)
@click.option(
    "--dry-run", is_flag=True, help="Print the spec that FILE is mapped to; make nothing."
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@pass_app
def import_(
    app: App,
    *,
    file: str,
    name: str | None,
    form: str | None,
    spec_file: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Make a machine of FILE: a bundle, an OVA or OVF, or a disk. It is not started.

    The spec that it is mapped to is shown first, and on a terminal you are asked. - reads a bundle
    from stdin.
    """
    if file == "-" and dry_run:
        raise UsageError("a stream can't be looked at twice", hint="import from a file instead")
    spec = None if spec_file is None else read_spec(spec_file)
    asks = not yes and file != "-" and asks_on_terminal()
    with app.connect() as host:
        if dry_run:
            found = host.preview_import(file, name=name, format=form)
            _warn(app, found)
            text = found.spec.to_yaml()
            data = {
                "kind": found.kind,
                "spec": found.spec.model_dump(mode="json", exclude_unset=True),
                "warnings": found.warnings,
            }
            app.show(data, lambda: click.echo(text, nl=False))
            return

        def review(found: Incoming) -> None:
            with aside():
                app.note(found.spec.to_yaml().rstrip())
                _warn(app, found)
                if asks:
                    question = f"Make the machine '{found.spec.name}'?"
                    app.confirm(question, otherwise=f"{found.spec.name}: not made")

        source: str | BinaryIO = file
        if file == "-":
            stdin = given_stdin()
            source = open(os.devnull, "rb") if stdin is None else stdin  # noqa: PTH123, SIM115
        with app.progress(passing=True) as progress:
            machine = host.import_machine(
                source, name=name, format=form, spec=spec, review=review, progress=progress
            )
        made = machine.info()
    app.show(
        made,
        lambda: print_table(("NAME", "STATE", "PHASE"), [(made.name, made.state, made.phase)]),
    )


def _warn(app: App, found: Incoming) -> None:
    for warning in found.warnings:
        app.warn(warning)
