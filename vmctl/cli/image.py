"""Images: list, pull, import, build, info, remove, prune."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vmctl.cli.context import App, pass_app
from vmctl.cli.lazy import LazyGroup, command
from vmctl.cli.output import human_size, print_fields, print_table
from vmctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.images import GivenName, ImageInfo
    from vmctl.imaging.catalogue import Entry

__all__ = ["build", "image", "import_file", "info", "list_images", "prune", "pull", "remove"]

image = LazyGroup(
    "image",
    sections={
        "Commands": {
            "list": f"{__name__}:list_images",
            "pull": f"{__name__}:pull",
            "import": f"{__name__}:import_file",
            "build": f"{__name__}:build",
            "info": f"{__name__}:info",
            "remove": f"{__name__}:remove",
            "prune": f"{__name__}:prune",
        }
    },
    help="Pull, import, build, list and remove images. The pool keeps each once, under all disks "
    "that are clones of it.",
)

_image = click.argument("reference", metavar="IMAGE")
_name = click.option("--name", metavar="NAME", help="What to call it.")
_tenant = click.option("--tenant", default="", metavar="TENANT", help="Whose it shall be.")


def _print(found: Sequence[ImageInfo]) -> None:
    print_table(
        ("NAME", "DIGEST", "DISK", "SIZE", "CLONES", "SAVED", "STATE"),
        [
            (
                ", ".join(known.name for known in entry.names),
                entry.digest[:12],
                human_size(entry.virtual_size),
                human_size(entry.allocation),
                str(entry.clones),
                human_size(entry.saved),
                "whole" if entry.complete else "incomplete",
            )
            for entry in found
        ],
    )


def _print_catalogue(found: Sequence[Entry]) -> None:
    print_table(
        ("NAME", "ARCH", "ALSO", "USER", "FIRMWARE", "OS", "DESCRIPTION"),
        [
            (
                entry.name,
                entry.arch,
                ", ".join(entry.aliases),
                entry.user or "",
                entry.firmware,
                entry.os or "",
                entry.description,
            )
            for entry in found
        ],
    )


@command("list")
@click.option("--remote", is_flag=True, help="List what can be pulled by name instead.")
@click.option("--arch", metavar="ARCH", help="With --remote: only those for this architecture.")
@click.option("--tenant", metavar="TENANT", help="Only those that machines of TENANT may use.")
@pass_app
def list_images(app: App, remote: bool, arch: str | None, tenant: str | None) -> None:
    """List the images in the pool, with what depends on them and what sharing them saves."""
    if remote:
        from vmctl.images import Images  # noqa: PLC0415 - not before it is needed

        entries = Images.catalogue(arch)
        # As data an entry is what a catalogue file says.
        data = [entry.model_dump(mode="json", exclude_none=True) for entry in entries]
        app.show(data, lambda: _print_catalogue(entries))
        return
    with app.connect() as host:
        found = host.images.list(tenant=tenant)
    app.show(found, lambda: _print(found))


def _done(app: App, made: ImageInfo, verb: str, given: str | None) -> None:
    app.show(made, lambda: _print([made]))
    if made.outgrows_pool:
        app.warn(
            f"a disk of it has {human_size(made.virtual_size)}, more than all of the pool: "
            "a guest that fills it fills the pool"
        )
    name = given or (made.names[0].name if len(made.names) == 1 else None)
    if app.wants_table:
        app.note(f"{verb}; use it in a spec as `image: {name}`" if name else verb)


@command("pull")
@click.argument("reference", metavar="NAME|URL")
@click.option("--sha256", metavar="DIGITS", help="What it has to be: a SHA-256 or SHA-512.")
@click.option("--arch", default="x86_64", metavar="ARCH", help="The guests' architecture.")
@click.option("--unverified", is_flag=True, help="Take it though nothing says what it has to be.")
@_name
@_tenant
@pass_app
def pull(app: App, /, reference: str, unverified: bool, **options: str | None) -> None:
    """Fetch an image of the catalogue, or from a URL, verify it and keep it in the pool."""
    with app.connect() as host, app.progress(passing=True) as progress:
        made = host.images.pull(
            reference,
            sha256=options["sha256"],
            name=options["name"],
            arch=options["arch"] or "x86_64",
            unverified=unverified,
            tenant=options["tenant"] or "",
            progress=progress,
        )
    _done(app, made, "pulled", options["name"])


@command("import")
@click.argument("path", metavar="FILE")
@click.option(
    "--as",
    "kind",
    type=click.Choice(["qcow2", "raw", "vmdk", "vdi", "vhd", "vhdx"]),
    help="What the file is declared to be; a raw disk without partitions must be.",
)
@_name
@_tenant
@pass_app
def import_file(app: App, path: str, kind: str | None, name: str | None, tenant: str) -> None:
    """Look into the image FILE, and keep it in the pool."""
    with app.connect() as host, app.progress(passing=True) as progress:
        made = host.images.import_file(
            path, name=name, format=kind, tenant=tenant, progress=progress
        )
    _done(app, made, "imported", name)


@command("build")
@click.argument("recipe", metavar="RELEASE")
@click.option("--package", "packages", multiple=True, metavar="PACKAGE", help="One more package.")
@click.option("--offline", multiple=True, metavar="PACKAGE", help="One more, not installed.")
@click.option("--mirror", "mirrors", multiple=True, metavar="URL", help="A mirror to take.")
@_name
@_tenant
@pass_app
def build(
    app: App,
    *,
    recipe: str,
    packages: tuple[str, ...],
    offline: tuple[str, ...],
    mirrors: tuple[str, ...],
    name: str | None,
    tenant: str,
) -> None:
    """Build an image of a Debian RELEASE (debian-12) from packages, and keep it in the pool."""
    with app.connect() as host, app.progress(passing=True) as progress:
        made = host.images.build(
            recipe,
            name=name,
            packages=packages,
            offline=offline,
            mirror=mirrors,
            tenant=tenant,
            progress=progress,
        )
    _done(app, made, "built", name)


def _origin(known: GivenName) -> str:
    said = [f"from {known.source or 'somewhere'}"]
    said += [f"verified by {known.verified_by}"] if known.verified_by else []
    said += [f"{known.tenant}'s"] if known.tenant else []
    said += [f"for {known.arch}"] if known.arch else []
    said += [known.os] if known.os else []
    said += [f"its own user is {known.user}"] if known.user else []
    said += ["needs UEFI"] if known.firmware == "uefi" else []
    return f"{known.name} ({', '.join(said)})"


@command("info")
@_image
@pass_app
def info(app: App, reference: str) -> None:
    """Show all that is known of IMAGE, a name or the beginning of a digest."""
    with app.connect() as host:
        found = host.images.info(reference)
    app.show(
        found,
        lambda: print_fields(
            [
                ("names", [_origin(entry) for entry in found.names]),
                ("digest", found.digest),
                ("disk", human_size(found.virtual_size)),
                ("size", human_size(found.allocation)),
                ("state", "whole" if found.complete else "incomplete"),
                ("clones", str(found.clones)),
                ("saved", human_size(found.saved)),
                ("used by", [str(user) for user in found.used_by]),
            ]
        ),
    )


@command("remove")
@_image
@pass_app
def remove(app: App, reference: str) -> None:
    """Remove IMAGE, unless a disk depends on it."""
    with app.connect() as host:
        found = host.images.remove(reference)
    app.show(found, lambda: app.note(f"{reference}: removed"))


@command("prune")
@click.option("--all", "everything", is_flag=True, help="Those that have a name, too.")
@click.option("--cache", is_flag=True, help="Empty this machine's cache instead; no host is asked.")
@click.option("--dry-run", is_flag=True, help="Only list them.")
@pass_app
def prune(app: App, everything: bool, cache: bool, dry_run: bool) -> None:
    """Remove the images that nothing depends on and that have no name."""
    if cache:
        if everything:
            raise UsageError("--all is for the images in the pool", hint="leave out --cache or it")
        _prune_cache(app, dry_run=dry_run)
        return
    with app.connect() as host:
        found = host.images.prune(everything=everything, dry_run=dry_run)
    app.show(found, lambda: _print(found))
    if app.wants_table:
        app.note(f"{len(found)} image(s) {'would be ' if dry_run else ''}removed")


def _prune_cache(app: App, *, dry_run: bool) -> None:
    from vmctl.images import Images  # noqa: PLC0415 - not before it is needed

    found = Images.prune_cache(dry_run=dry_run)
    rows = [(entry.kind, human_size(entry.size), entry.path) for entry in found]
    app.show(found, lambda: print_table(("KIND", "SIZE", "PATH"), rows))
    if app.wants_table:
        size = human_size(sum(entry.size for entry in found))
        app.note(f"{size} {'would be ' if dry_run else ''}freed on this machine")
