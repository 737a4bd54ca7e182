"""A machine in from a file: looked at, mapped to a spec, and made as a launch makes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vmctl import launch
from vmctl.errors import NotFoundError, SpecError, UsageError
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.names import find, name_is_taken
from vmctl.hypervisor.pools import open_pool
from vmctl.imaging import bundle, ova
from vmctl.imaging.inspection import Image, inspect
from vmctl.imaging.qemu_img import run_limited
from vmctl.imaging.reading import opened, reading
from vmctl.imaging.scratch import saying_when_full, scratch_folder
from vmctl.plan import Imported
from vmctl.progress import ProgressCallback, Reporter
from vmctl.spec import VMSpec
from vmctl.transfer.bundled import Bundle
from vmctl.transfer.incoming import Disk, Incoming, Opened, Package

__all__ = ["Incoming", "Review", "import_machine", "make", "preview"]

Review = Callable[[Incoming], None]


def preview(
    source: Path, *, name: str | None, form: str | None, around: launch.Surroundings
) -> Incoming:
    """Say what a file would become; see `Host.preview_import`."""
    with _open(source, form, Reporter(name or source.name, None)) as opened:
        return opened.incoming(name, None, around)


def import_machine(
    source: Path | BinaryIO,
    *,
    name: str | None,
    form: str | None,
    spec: VMSpec | None,
    review: Review | None,
    around: launch.Surroundings,
    progress: ProgressCallback | None,
) -> Domain:
    """Make a machine of a file; see `Host.import_machine`."""
    label = name or (source.name if isinstance(source, Path) else "stdin")
    reporter = Reporter(label, progress)
    if isinstance(source, Path):
        opened = _open(source, form, reporter)
    elif form in {None, "bundle"}:
        opened = Bundle(source, "stdin")
    else:
        raise UsageError(f"{form} can't be read as a stream", hint="give the path of a file")
    return make(
        opened,
        label,
        name=name,
        spec=spec,
        review=review,
        around=around,
        reporter=reporter,
        progress=progress,
    )


def make(
    opened: Opened,
    label: str,
    *,
    name: str | None,
    spec: VMSpec | None,
    review: Review | None,
    around: launch.Surroundings,
    reporter: Reporter,
    progress: ProgressCallback | None,
) -> Domain:
    """Make a machine of what was opened, and close that; see `import_machine`."""
    with opened:
        found = opened.incoming(name, spec, around)
        _refuse_taken_name(found.spec.name, around)
        if review is not None:
            review(found)
        with scratch_folder() as scratch:
            with reporter.phase("image") as phase, saying_when_full(f"the disks of {label!r}"):
                disks = opened.disks(scratch, phase)
                wanted, files = _fit(found.spec, disks)
            _refuse_without_room(files, around)
            imported = Imported(disks=files, nvram=opened.nvram(), **opened.known())
            made = launch.create(
                opened.finished(wanted), around, progress=progress, imported=imported
            )
        return made.domain


def _refuse_taken_name(name: str, around: launch.Surroundings) -> None:
    try:
        find(around.connection, name)
    except NotFoundError:
        return
    raise name_is_taken(name)


def _refuse_without_room(files: tuple[Image | None, ...], around: launch.Surroundings) -> None:
    pool = open_pool(around.connection, around.pool)
    pool.refresh()
    size = sum(file.size for file in files if file is not None)
    if pool.available() < size:
        raise pool.no_room(f"for the machine's disks ({size} bytes)")


def _fit(spec: VMSpec, disks: tuple[Image | None, ...]) -> tuple[VMSpec, tuple[Image | None, ...]]:
    """Give each disk its size: that of its image, or the larger one that the spec asks for."""
    if len(spec.disks) != len(disks):
        raise UsageError(
            f"the spec has {len(spec.disks)} disks, and what is imported has {len(disks)}",
            hint="list as many disks as there are; `--dry-run` prints a spec to begin with",
        )
    changed = []
    files: list[Image | None] = []
    for number, (disk, image) in enumerate(zip(spec.disks, disks, strict=True)):
        if image is None:
            changed.append(disk)
            files.append(None)
            continue
        grown = _grown(image, int(disk.size or 0), number)
        changed.append(disk.replace(size=f"{grown.virtual_size}B", image=None))
        files.append(grown)
    return spec.replace(image=None, disks=tuple(changed)), tuple(files)


def _grown(image: Image, size: int, number: int) -> Image:
    if image.virtual_size > size > 0:
        raise SpecError(
            f"disks[{number}] is {size} bytes, and its content {image.virtual_size}",
            hint="leave its size out, or make it at least as large as it was",
        )
    if size <= image.virtual_size:
        return image
    run_limited(["resize", "-f", "qcow2", str(image.path), str(size)], size=size)
    return inspect(image.path, format="qcow2")


def _open(source: Path, form: str | None, reporter: Reporter) -> Opened:
    with opened(source) as file, reading(source):
        start = file.read(512)
    if form == "bundle" or (form is None and bundle.is_bundle(start)):
        return Bundle(source.open("rb"), str(source), owned=True)
    if form in {"ova", "ovf"} or (form is None and _is_package(start)):
        return Package(ova.read_package(source))
    with reporter.phase("image") as phase:
        return Disk(inspect(source, format=form, phase=phase))


def _is_package(start: bytes) -> bool:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return start[257:262] == b"ustar" or text.startswith((b"<?xml", b"<Envelope", b"<ovf:"))
