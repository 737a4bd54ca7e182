"""Volumes: create, list, info, clone, grow, upload, download, wipe, delete."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, BinaryIO

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import human_size, print_fields, print_table
from vmctl.cli.streams import asks_on_terminal
from vmctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.volumes import VolumeSummary

__all__ = [
    "clone",
    "create",
    "delete",
    "download",
    "grow",
    "info",
    "list_volumes",
    "upload",
    "volume",
    "wipe",
]

_VERBS = ("create", "info", "clone", "grow", "upload", "download", "wipe", "delete")
volume = LazyGroup(
    "volume",
    sections={
        "Commands": {
            "list": f"{__name__}:list_volumes",
            **{verb: f"{__name__}:{verb}" for verb in _VERBS},
        }
    },
    help="Make, list, copy, grow, fill, read and remove volumes. A volume is NAME, in the pool "
    "that --pool names, or POOL/NAME.",
)

_volume = click.argument("name", metavar="VOLUME")
_size = click.argument("size", metavar="SIZE")
_yes = click.option("--yes", "-y", is_flag=True, help="Don't ask.")
_FORMATS = click.Choice(["qcow2", "raw"])


def _print(found: Sequence[VolumeSummary]) -> None:
    print_table(
        ("POOL", "NAME", "FORMAT", "CAPACITY", "ALLOCATION"),
        [
            (
                entry.pool,
                entry.name,
                entry.format or entry.type,
                human_size(entry.capacity),
                human_size(entry.allocation),
            )
            for entry in found
        ],
    )


@command("list")
@click.argument("which", metavar="[POOL]", required=False)
@click.option("--all", "everything", is_flag=True, help="With vmctl's own notes, seeds and logs.")
@pass_app
def list_volumes(app: App, which: str | None, everything: bool) -> None:
    """List the volumes of POOL, by default of the one that --pool names."""
    with app.connect() as host:
        found = host.volumes.list(which, everything=everything)
    app.show(found, lambda: _print(found))


@command("create")
@_volume
@_size
@click.option("--as", "kind", type=_FORMATS, default="qcow2", help="How it is written (qcow2).")
@click.option("--preallocate", is_flag=True, help="Take all of its space at once.")
@pass_app
def create(app: App, name: str, size: str, kind: str, preallocate: bool) -> None:
    """Make the empty volume VOLUME of SIZE (10GiB)."""
    with app.connect() as host:
        made = host.volumes.create(name, size, format=kind, preallocate=preallocate)
    app.show(made, lambda: _print([made]))


@command("info")
@_volume
@pass_app
def info(app: App, name: str) -> None:
    """Show all that is known of VOLUME, and who uses it."""
    with app.connect() as host:
        found = host.volumes.info(name)
    app.show(
        found,
        lambda: print_fields(
            [
                ("pool", found.pool),
                ("name", found.name),
                ("path", found.path),
                ("type", found.type),
                ("format", found.format),
                ("capacity", human_size(found.capacity)),
                ("allocation", human_size(found.allocation)),
                ("backing", found.backing),
                ("used by", [str(user) for user in found.used_by]),
            ]
        ),
    )


@command("clone")
@_volume
@click.argument("new", metavar="NEW")
@pass_app
def clone(app: App, name: str, new: str) -> None:
    """Make NEW, a full copy of VOLUME with all that lies underneath it."""
    with app.connect() as host, app.progress(passing=True) as progress:
        made = host.volumes.clone(name, new, progress=progress)
    app.show(made, lambda: _print([made]))


@command("grow")
@_volume
@_size
@pass_app
def grow(app: App, name: str, size: str) -> None:
    """Make VOLUME as large as SIZE; the guest that runs on it sees it at once."""
    with app.connect() as host:
        grown = host.volumes.grow(name, size)
    app.show(grown, lambda: _print([grown]))


@command("upload")
@click.argument("file", type=click.Path(), metavar="FILE")
@_volume
@click.option(
    "--as",
    "kind",
    type=_FORMATS,
    help="What FILE is; raw must be said where it has no partition table.",
)
@click.option("--overwrite", is_flag=True, help="Write over a volume that is a device.")
@pass_app
def upload(app: App, file: str, name: str, kind: str | None, overwrite: bool) -> None:
    """Make VOLUME, with what FILE on this machine holds; if it fails, nothing is left."""
    with app.connect() as host, app.progress(passing=True) as progress:
        made = host.volumes.upload(file, name, format=kind, overwrite=overwrite, progress=progress)
    app.show(made, lambda: _print([made]))


@command("download")
@_volume
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option("--replace", is_flag=True, help="Replace FILE if it is there.")
@pass_app
def download(app: App, name: str, file: str, replace: bool) -> None:
    """Write VOLUME into FILE on this machine, which appears when it is whole; - is stdout."""
    target: str | BinaryIO = file
    if file == "-":
        if sys.stdout is None or sys.stdout.isatty():
            raise UsageError("a terminal can't show a volume", hint="write it to a file or a pipe")
        target = sys.stdout.buffer
    with app.connect() as host, app.progress(passing=True) as progress:
        size = host.volumes.download(name, target, replace=replace, progress=progress)
    if file == "-":
        return
    app.show(
        {"name": name, "file": file, "size": size},
        lambda: app.note(f"{name}: {human_size(size)} in {file}"),
    )


def _confirmed(yes: bool, question: str) -> bool:
    return yes or not asks_on_terminal() or click.confirm(question, err=True)


@command("wipe")
@_volume
@_yes
@pass_app
def wipe(app: App, name: str, yes: bool) -> None:
    """Write zeros over all of VOLUME, unless something uses it. On a terminal it asks first."""
    with app.connect() as host:
        host.volumes.info(name)
        wiped = _confirmed(yes, f"Wipe all that the volume '{name}' holds?")
        if wiped:
            with app.progress(passing=True) as progress:
                host.volumes.wipe(name, progress=progress)
    app.show(
        {"name": name, "wiped": wiped},
        lambda: app.note(f"{name}: {'wiped' if wiped else 'kept'}"),
    )


@command("delete")
@_volume
@_yes
@pass_app
def delete(app: App, name: str, yes: bool) -> None:
    """Delete VOLUME, unless something uses it. On a terminal it asks first."""
    with app.connect() as host:
        host.volumes.info(name)
        deleted = _confirmed(yes, f"Delete the volume '{name}'?")
        if deleted:
            host.volumes.delete(name)
    app.show(
        {"name": name, "deleted": deleted},
        lambda: app.note(f"{name}: {'deleted' if deleted else 'kept'}"),
    )
