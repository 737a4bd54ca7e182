"""The volumes of disks and media that come to a machine later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vmctl import bases
from vmctl.errors import ConflictError
from vmctl.hypervisor import uploads
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.pools import Pool
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.plan import NewVolume, plan_disk, plan_medium
from vmctl.progress import Phase, Reporter
from vmctl.render.sources import DiskSource, as_source
from vmctl.render.volume import render_volume
from vmctl.spec import VMSpec

__all__ = ["PlannedDisk", "make", "plan", "plan_cdrom", "unused_name"]

_UPLOAD_SECONDS = 7200.0


@dataclass(frozen=True, kw_only=True)
class PlannedDisk:
    """A disk that is going to be attached.

    Attributes:
        source: What it is; None where its spec names a server.
        format: How it is written.
        volume: The volume that is going to be made; None for what there is already.
    """

    source: DiskSource | None
    format: str
    volume: NewVolume | None


def plan(spec: VMSpec, index: int, *, uuid: str, pool: Pool, reporter: Reporter) -> PlannedDisk:
    """Work out what the disk of that index is, and what has to be made for it.

    Raises:
        SpecError: It does not fit its image.
        NotFoundError: Its image or its volume isn't there.
        ImageError: Its image is not fit to be used.
    """
    source, form, volume = plan_disk(spec, index, uuid=uuid, pool=pool, reporter=reporter)
    if volume is not None:
        name = unused_name(pool, volume.owned.name)
        volume = replace(volume, owned=replace(volume.owned, name=name))
        source = pool.path_of(name)
    return PlannedDisk(source=as_source(source), format=form, volume=volume)


def plan_cdrom(
    spec: VMSpec,
    target: str,
    path: str | None,
    volume: str | None,
    *,
    uuid: str,
    pool: Pool,
    reporter: Reporter,
) -> PlannedDisk:
    """Work out what the medium of a CD-ROM drive is, and what has to be made for it.

    Raises:
        SpecError: The file can't be read.
        NotFoundError: There is no such volume.
    """
    source, new = plan_medium(spec, path, volume, uuid=uuid, pool=pool, reporter=reporter)
    if new is not None:
        name = unused_name(pool, f"{spec.name}.{uuid}.{target}.iso")
        new = replace(new, owned=replace(new.owned, name=name))
        source = pool.path_of(name)
    return PlannedDisk(source=as_source(source), format="raw", volume=new)


def unused_name(pool: Pool, name: str) -> str:
    """Return the name, or one like it that no volume has: what was detached keeps its own."""
    pool.refresh()
    stem, _, ending = name.rpartition(".")
    names = (name, *(f"{stem}.{number}.{ending}" for number in range(2, 1000)))
    for candidate in names:
        if not StoredVolume.of(pool, candidate).exists():
            return candidate
    raise ConflictError(
        f"the pool '{pool.name}' has a thousand volumes like '{name}'",
        hint="remove those that nothing needs",
    )


def make(pool: Pool, volume: NewVolume, *, phase: Phase) -> None:
    """Make a volume, with its image underneath it, or its content in it.

    Raises:
        ResourceError: There is no room.
    """
    made = StoredVolume.of(pool, volume.owned.name)
    base = None
    if volume.base is not None:
        note = StoredVolume.of(pool, bases.base_name(volume.base))
        with claimed(_UPLOAD_SECONDS) as claim:
            noted = False

            def note_brought(brought: bool) -> None:
                nonlocal noted
                if brought and not noted:
                    # What a killed client leaves of it is found by this.
                    uploads.take_over(note, claim)
                noted = brought or noted

            try:
                base = bases.ensure_in_pool(
                    pool, volume.base, phase=phase, note_brought=note_brought
                )
            finally:
                if noted:
                    uploads.unmark(note)
    xml = render_volume(
        made.name,
        capacity=volume.capacity,
        format=volume.format,
        backing_path=None if base is None or volume.full else base.path(),
    )
    if base is not None and volume.full:
        bases.copy_volume(base, made, xml, volume.capacity)
    else:
        made.create(xml)
    if isinstance(volume.content, Path):
        with volume.content.open("rb") as file:
            made.upload(file.fileno(), start=0, length=volume.capacity)
