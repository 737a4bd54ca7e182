"""Specs: validate, render, schema."""

from __future__ import annotations

from typing import Any

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.errors import complain
from vmctl.cli.lazy import command
from vmctl.cli.output import print_document
from vmctl.cli.specs import read_spec, source_of
from vmctl.errors import SpecError

__all__ = ["render", "schema", "validate"]


@command("validate")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(allow_dash=True), metavar="FILE..."
)
@pass_app
def validate(app: App, files: tuple[str, ...]) -> None:
    """Check the specs in FILEs: every problem, with the path of its field.

    The exit code is 7 when one of them is not valid. No host is asked.
    """
    found: list[dict[str, Any]] = []
    for file in files:
        entry: dict[str, Any] = {"file": source_of(file), "valid": True, "problems": []}
        found.append(entry)
        try:
            read_spec(file)
        except SpecError as error:
            entry["valid"] = False
            entry["problems"] = [
                {"path": problem.path, "message": problem.message} for problem in error.problems
            ] or [{"path": "", "message": error.brief}]
            if app.wants_table:
                complain(error)
        else:
            app.note(f"{source_of(file)}: ok")
    if not app.wants_table:
        print_document(found, app.settings.format)
    if not all(entry["valid"] for entry in found):
        raise click.exceptions.Exit(SpecError.exit_code)


@command("render")
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option("--seed", is_flag=True, help="Print cloud-init's seed too, secrets and all.")
@pass_app
def render(app: App, file: str, seed: bool) -> None:
    """Print the libvirt XML that the spec FILE is turned into; nothing is made.

    With --uri it is what that host would get; without, what a host that can do everything but KVM
    would. The UUID, and the paths of disks, are stand-ins for those that a launch chooses.
    """
    spec = read_spec(file)
    facts = None
    # A host that merely is the default must not decide, or fail, what needs none.
    if app.flags.get("uri") is not None:
        with app.connect() as host:
            facts = host.facts
    from vmctl.preview import preview_documents  # noqa: PLC0415 - not before it is needed

    found = preview_documents(spec, facts=facts)

    def text() -> None:
        click.echo(found.xml, nl=not found.xml.endswith("\n"))
        for name, content in found.seed.items() if seed else ():
            click.echo(f"\n==> {name} <==")
            click.echo(content, nl=not content.endswith("\n"))

    app.show({"xml": found.xml} | ({"seed": found.seed} if seed else {}), text)


@command("schema")
@pass_app
def schema(app: App) -> None:
    """Print the JSON schema of specs, for editors and other programs."""
    from vmctl.spec import json_schema  # noqa: PLC0415 - it takes a while to import

    style = app.settings.format
    print_document(json_schema(), "json" if style == "table" else style)
